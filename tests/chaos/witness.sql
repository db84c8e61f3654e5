-- Writes down every change of a collector's row that was committed, in the order of the commits: the row's lock makes
-- it that. A change that was rolled back leaves nothing.
CREATE SCHEMA witness;
CREATE TABLE witness.change (
  id bigserial PRIMARY KEY, name text, transaction bigint,
  fence bigint, holder uuid, holder_before uuid, until timestamptz, until_before timestamptz,
  stored bool
);
CREATE INDEX ON witness.change (transaction);
CREATE FUNCTION witness.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO witness.change (name, transaction, fence, holder, holder_before, until, until_before, stored)
  VALUES (new.name, pg_current_xact_id()::text::bigint % 4294967296, new.fence, new.holder, old.holder,
          new.updated_until_dt, old.updated_until_dt,
          (new.meta_attr, new.updated_until_dt) IS DISTINCT FROM (old.meta_attr, old.updated_until_dt));
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE ON collectkit.collector FOR EACH ROW
  WHEN ((new.fence, new.holder, new.updated_until_dt, new.meta_attr)
        IS DISTINCT FROM (old.fence, old.holder, old.updated_until_dt, old.meta_attr))
  EXECUTE FUNCTION witness.note();
