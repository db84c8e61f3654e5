"""The ledger's SQL: each statement with the rule that it enforces; ``ledger`` gives them their Python faces.

Two rules carry it. The claim takes the due time into the run, every close gives one back, and everybody else only
pulls it earlier. Only a close frees a lease. Times are ``clock_timestamp()``: ``now()`` is the BEGIN, and a statement
that waited for a lock would write a lease that is over already. No ``*``: after an ADD COLUMN a prepared one fails.
"""

from __future__ import annotations

# What both the claim and the sweep mean by claimable, due time apart. A dependency without a row blocks (LEFT JOIN).
_STARTABLE = """
  c.holder IS NULL AND c.enabled AND c.retired_at IS NULL AND c.paused_at IS NULL
  AND NOT EXISTS (SELECT FROM unnest(c.depends_on) n LEFT JOIN collectkit.collector d ON d.name = n
                   WHERE d.data_state IS DISTINCT FROM 'COMPLETE')
"""

# An instance, ``name[key]``, belongs to the collector that declares it.
_MINE = "split_part(c.name, '[', 1) = ANY (%(mine)s)"

# Takes free rows only. Sibling CTEs run the INSERT before the UPDATE, so the claim closes nothing.
CLAIM = f"""
WITH p AS (
  SELECT c.name, c.next_due_at FROM collectkit.collector c
   WHERE c.name = %(name)s AND (c.next_due_at <= clock_timestamp() OR %(force)s) AND {_STARTABLE}
     FOR NO KEY UPDATE OF c),
c AS (
  UPDATE collectkit.collector c
     SET fence = fence + 1, attempt = attempt + 1, holder = %(token)s, lease_until = clock_timestamp() + %(ttl)s,
         next_due_at = NULL, nudged_at = NULL
    FROM p WHERE c.name = p.name
  RETURNING c.name, c.fence, c.holder, c.attempt, c.max_attempts, c.schedule, c.tz, c.fresh_for, c.data_state,
            c.updated_until_dt, c.meta_attr, nullif(p.next_due_at, 'infinity') AS due, clock_timestamp() AS at),
r AS (
  INSERT INTO collectkit.run
    (collector, fence, attempt, trigger, scheduled_for, started_at, until_before, dry_run, worker)
  SELECT name, fence, attempt, %(trigger)s, due, at, updated_until_dt, %(dry_run)s, %(worker)s FROM c
  RETURNING id)
SELECT r.id, c.name, c.fence, c.holder, c.attempt, c.max_attempts, c.schedule, c.tz, c.fresh_for, c.due, c.at,
       c.data_state, c.updated_until_dt, c.meta_attr
  FROM c, r
"""

# Ordered and SKIP LOCKED: one locked row costs nobody else a lease, and there is no deadlock. Returns the lost ones.
RENEW = """
WITH m AS (SELECT name, holder FROM unnest(%(names)s::text[], %(tokens)s::uuid[]) m(name, holder)),
l AS (
  SELECT c.name FROM collectkit.collector c JOIN m USING (name, holder)
   ORDER BY c.name FOR NO KEY UPDATE OF c SKIP LOCKED),
u AS (UPDATE collectkit.collector c SET lease_until = clock_timestamp() + %(ttl)s FROM l WHERE c.name = l.name)
SELECT m.holder FROM m
 WHERE NOT EXISTS (SELECT FROM collectkit.collector c WHERE c.name = m.name AND c.holder = m.holder)
"""

# The last statement before COMMIT. No row: the lease is lost, the transaction rolls back. It leaves the lease alone.
# Fence and holder: a database restored to yesterday repeats fences, never tokens.
CHECKPOINT = """
WITH c AS (
  UPDATE collectkit.collector
     SET updated_until_dt = greatest(updated_until_dt, %(until)s::timestamptz),
         stale_at = coalesce(%(stale_at)s::timestamptz, stale_at),
         data_state = CASE WHEN data_state = 'COMPLETE' OR %(complete)s THEN 'COMPLETE' ELSE 'PARTIAL' END,
         meta_attr = (meta_attr || %(meta)s) - %(removed)s::text[]
   WHERE name = %(name)s AND fence = %(fence)s AND holder = %(token)s
  RETURNING updated_until_dt, schedule, tz, fresh_for)
UPDATE collectkit.run r
   SET counts = %(counts)s, until_after = c.updated_until_dt, acl_read = %(acl_read)s, acl_write = %(acl_write)s
  FROM c WHERE r.id = %(run)s
RETURNING c.schedule, c.tz, c.fresh_for
"""

# For readers alone: nothing is decided by it. A run that somebody else has closed says no more.
PROGRESS = """
UPDATE collectkit.run SET done = %(done)s, total = %(total)s WHERE id = %(run)s AND outcome = 'RUNNING'
"""

# Whoever follows the collector becomes due in the commit that changed its rows; only earlier, never later.
PULL_FOLLOWERS = """
UPDATE collectkit.collector SET next_due_at = least(next_due_at, clock_timestamp()), nudged_at = NULL
 WHERE name IN (SELECT name FROM collectkit.collector WHERE %(name)s = ANY (after) ORDER BY name FOR NO KEY UPDATE)
"""

# The finish of any outcome, LOST by the sweep, REVOKED by a rewind: one statement. LOST too where the clock went back.
CLOSE = """
WITH c AS (
  UPDATE collectkit.collector c
     SET holder = NULL, lease_until = NULL, nudged_at = NULL, attempt = %(attempt)s,
         last_error = CASE WHEN r.dry_run OR %(outcome)s::text IN ('HANDED_OVER', 'REVOKED') THEN c.last_error
                           ELSE %(error)s::text END,
         next_due_at = least(c.next_due_at, CASE %(give)s::text
           WHEN 'back' THEN coalesce(r.scheduled_for, %(tick)s::timestamptz)
           WHEN 'retry' THEN least(clock_timestamp() + %(backoff)s::interval, %(tick)s::timestamptz)
           ELSE %(tick)s::timestamptz END)
    FROM collectkit.run r
   WHERE c.name = %(name)s AND c.fence = %(fence)s AND c.holder = %(token)s AND r.id = %(run)s
     AND (%(outcome)s::text <> 'LOST'
          OR c.lease_until NOT BETWEEN clock_timestamp() AND clock_timestamp() + 3 * %(ttl)s::interval)
  RETURNING c.name)
UPDATE collectkit.run r
   SET outcome = %(outcome)s, finished_at = clock_timestamp(), result = %(result)s, error = %(error)s,
       counts = coalesce(%(counts)s::jsonb, r.counts), acl_read = coalesce(%(acl_read)s::text[], r.acl_read),
       acl_write = coalesce(%(acl_write)s::text[], r.acl_write)
  FROM c WHERE r.id = %(run)s
RETURNING r.id
"""

ENDING = "SELECT outcome, finished_at FROM collectkit.run WHERE id = %(run)s AND finished_at IS NOT NULL"

_HELD = """
SELECT r.id, r.dry_run, r.trigger, c.name, c.fence, c.holder, c.attempt, c.max_attempts, c.schedule, c.tz, r.worker,
       r.started_at, clock_timestamp()
  FROM collectkit.collector c JOIN collectkit.run r ON r.collector = c.name AND r.outcome = 'RUNNING'
"""

# Held, by the living or the dead: what a rewind closes first.
HELD = f"{_HELD} WHERE c.name = %(name)s AND c.holder IS NOT NULL"

# Lapsed, whatever the collector's state. After a restart of the database the living renew first, so it waits one TTL.
LAPSED = f"""{_HELD} WHERE c.lease_until NOT BETWEEN clock_timestamp() AND clock_timestamp() + 3 * %(ttl)s::interval
   AND clock_timestamp() NOT BETWEEN pg_postmaster_start_time() AND pg_postmaster_start_time() + %(ttl)s::interval
   AND c.name = coalesce(%(name)s, c.name)
 ORDER BY c.name
"""

# A process that was stopped inside a checkpoint may hold the very row that is to be closed: its backend is ended first.
# In this database only: another on the same server may have a run of the same number.
END_BACKEND = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = %(application_name)s AND usename = current_user AND datname = current_database()
   AND pid <> pg_backend_pid()
"""

# What is claimable, longest due first, each at most once in ten seconds however many processes look; a nudge of the
# future is one from before the clock was set back.
DUE = f"""
WITH d AS (
  SELECT c.name FROM collectkit.collector c
   WHERE {_MINE} AND c.next_due_at <= clock_timestamp() AND {_STARTABLE}
     AND (c.nudged_at IS NULL OR c.nudged_at NOT BETWEEN clock_timestamp() - interval '10 s' AND clock_timestamp())
   ORDER BY c.next_due_at, c.name LIMIT %(room)s FOR NO KEY UPDATE OF c SKIP LOCKED)
UPDATE collectkit.collector c SET nudged_at = clock_timestamp() FROM d WHERE c.name = d.name RETURNING c.name
"""

# Run now; while it runs too, then one more run follows.
REQUEST = """
WITH c AS (
  UPDATE collectkit.collector SET next_due_at = least(next_due_at, clock_timestamp()), nudged_at = NULL
   WHERE name = %(name)s AND retired_at IS NULL RETURNING name)
INSERT INTO collectkit.audit (by, action, collector, note) SELECT %(by)s, 'run', name, %(note)s FROM c RETURNING id
"""

# The watermark goes back, and what was read up to it with it; due at once. The data state stays, and so do the rows.
REWIND = """
WITH c AS (
  UPDATE collectkit.collector
     SET updated_until_dt = %(to)s, stale_at = %(stale_at)s::timestamptz, meta_attr = meta_attr - %(dropped)s::text[],
         attempt = 0, next_due_at = clock_timestamp(), nudged_at = NULL
   WHERE name = %(name)s AND holder IS NULL AND updated_until_dt > %(to)s RETURNING name)
INSERT INTO collectkit.audit (by, action, collector, note) SELECT %(by)s, 'rewind', name, %(note)s FROM c RETURNING id
"""

# Seconds until the next due time in the future; null when nothing is to come.
NEXT_DUE = f"""
SELECT extract(epoch FROM min(c.next_due_at) - clock_timestamp())::float8 FROM collectkit.collector c
 WHERE {_MINE} AND c.holder IS NULL AND isfinite(c.next_due_at) AND c.next_due_at > clock_timestamp()
"""

# The plans in force: what this process's code says counts from the next migration on.
PLANS = f"""
SELECT c.name, c.schedule, c.tz, clock_timestamp() FROM collectkit.collector c
 WHERE {_MINE} AND c.schedule IS NOT NULL AND c.retired_at IS NULL
"""

# A database clock that had run ahead leaves due times too far in the future. A tick that has passed meanwhile changes
# nothing: the collector may have run at it.
HEAL = """
UPDATE collectkit.collector c SET next_due_at = h.tick
  FROM unnest(%(names)s::text[], %(ticks)s::timestamptz[]) h(name, tick)
 WHERE c.name = h.name AND c.holder IS NULL AND c.next_due_at > h.tick AND h.tick > clock_timestamp()
"""

# Only rows that differ. Waiting: the new plan; due, retrying or running: only earlier. A newcomer is due at once.
RECONCILE = """
INSERT INTO collectkit.collector AS c
  (name, schedule, tz, depends_on, after, data_models, enabled, max_attempts, fresh_for)
VALUES (%(name)s, %(schedule)s, %(tz)s, %(depends_on)s::text[], %(after)s::text[], %(data_models)s::text[], %(enabled)s,
        %(max_attempts)s, %(fresh_for)s::interval)
ON CONFLICT (name) DO UPDATE SET
  schedule = excluded.schedule, tz = excluded.tz, depends_on = excluded.depends_on, after = excluded.after,
  data_models = excluded.data_models, enabled = excluded.enabled, max_attempts = excluded.max_attempts,
  fresh_for = excluded.fresh_for, retired_at = NULL,
  stale_at = CASE WHEN (c.schedule, c.tz, c.fresh_for)
                       IS NOT DISTINCT FROM (excluded.schedule, excluded.tz, excluded.fresh_for)
                  THEN c.stale_at ELSE %(stale_at)s::timestamptz END,
  next_due_at = CASE WHEN (c.schedule, c.tz) IS NOT DISTINCT FROM (excluded.schedule, excluded.tz) THEN c.next_due_at
                     WHEN c.holder IS NULL AND c.attempt = 0 AND c.next_due_at > clock_timestamp()
                     THEN %(tick)s::timestamptz
                     ELSE least(c.next_due_at, %(tick)s::timestamptz) END
WHERE c.retired_at IS NOT NULL
   OR (c.schedule, c.tz, c.depends_on, c.after, c.data_models, c.enabled, c.max_attempts, c.fresh_for)
      IS DISTINCT FROM (excluded.schedule, excluded.tz, excluded.depends_on, excluded.after, excluded.data_models,
                        excluded.enabled, excluded.max_attempts, excluded.fresh_for)
RETURNING xmax = 0
"""

DECLARED = """
SELECT name, schedule, tz, depends_on, after, data_models, enabled, max_attempts, fresh_for, updated_until_dt,
       clock_timestamp(), retired_at IS NOT NULL
  FROM collectkit.collector
"""

RETIRE = """
UPDATE collectkit.collector SET retired_at = clock_timestamp()
 WHERE name = ANY (%(names)s) AND retired_at IS NULL RETURNING name
"""
