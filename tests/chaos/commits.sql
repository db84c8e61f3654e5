-- Writes down who committed: each statement on a collector's table and each checkpoint, with the name of the session,
-- which is that of the run, whatever the row says of its holder. What was rolled back leaves nothing.
CREATE TABLE witness.write (transaction xid8, target text, by text);
CREATE TABLE witness.checkpoint (transaction xid8, name text, fence bigint, holder uuid, by text);
CREATE FUNCTION witness.note_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO witness.write VALUES (pg_current_xact_id(), tg_table_name, current_setting('application_name'));
  RETURN NULL;
END $$;
CREATE FUNCTION witness.note_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO witness.checkpoint
  VALUES (pg_current_xact_id(), new.name, new.fence, new.holder, current_setting('application_name'));
  RETURN NULL;
END $$;
-- The statement of a checkpoint alone names this column; it fires as well where the watermark stays what it is.
CREATE TRIGGER note_checkpoint AFTER UPDATE OF updated_until_dt ON collectkit.collector FOR EACH ROW
  EXECUTE FUNCTION witness.note_checkpoint();
DO $$
DECLARE
  target regclass;
BEGIN
  FOR target IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
    EXECUTE format('CREATE TRIGGER note_write AFTER INSERT OR UPDATE OR DELETE ON %s'
                   ' EXECUTE FUNCTION witness.note_write()', target);
  END LOOP;
END $$;
