"""The commands that a fault strikes instead of a worker: ``migrate``, and ``run`` by hand; how they must end."""

from __future__ import annotations

import signal
import subprocess

from tests.chaos.cases import Case
from tests.chaos.lane import Lane
from tests.chaos.verdict import Broken

PROCESS_PATIENCE = 60.0
_NOT_CLAIMED = 3


def last_run(lane: Lane) -> int:
    """Return the number of the latest run of all, 0 if there is none."""
    ((run,),) = lane.sql("SELECT coalesce(max(id), 0) FROM collectkit.run")
    return int(run)


def see_how_it_ended(lane: Lane, case: Case, runs_before: int) -> None:
    """Wait for ``collectkit run``, and hold its exit code against what the ledger says of its run.

    Arguments:
        runs_before: the number of the last run before it: another process may have had the same id.

    Raises:
        Broken: it did not end, or says something else than the ledger.
    """
    process = lane.spare.process
    code = _code(process, "collectkit run")
    outcomes = lane.sql(
        "SELECT outcome FROM collectkit.run WHERE worker LIKE %s AND id > %s", f"%:{process.pid}", runs_before
    )
    if case.fault == "kill":
        is_right = code == -signal.SIGKILL
    elif code == _NOT_CLAIMED:
        is_right = not outcomes
    elif case.fault in {"term", "raise"}:
        # It may have been struck when its run had been closed.
        is_right = code != 0 or outcomes == [("OK",)]
    else:
        is_right = (code == 0) == (outcomes == [("OK",)])
    if not is_right:
        raise Broken(f"collectkit run ended with code {code}, the ledger has {outcomes or 'no run'} of it")


def begin_migration(lane: Lane, case: Case) -> None:
    """Start ``migrate``, with something to do."""
    if case.kind == "fresh":
        lane.servers.create_database(f"fresh_{lane.number}")
        lane.start(lane.spare, "migrate", database=f"fresh_{lane.number}")
        return
    lane.sql("DROP TABLE IF EXISTS spare")
    lane.sql("UPDATE collectkit.collector SET data_models = '{}' WHERE name = 'chaos.snap'")
    lane.sql(
        "INSERT INTO collectkit.collector (name, tz, next_due_at, retired_at)"
        " VALUES ('tests.chaos.subjects.gone', 'UTC', 'infinity', NULL)"
        " ON CONFLICT (name) DO UPDATE SET retired_at = NULL"
    )
    lane.start(lane.spare, "migrate")


def finish_migration(lane: Lane, case: Case) -> None:
    """Migrate again, as an operator does who saw it fail, and compare the outcome with the code.

    Raises:
        Broken: one of them did not end, the second one failed, or the schema differs.
    """
    database = f"fresh_{lane.number}" if case.kind == "fresh" else lane.database
    _code(lane.spare.process, "the migrate that was struck")
    lane.end(lane.spare.process)
    code = _code(lane.start(lane.spare, "migrate", database=database), "the migrate after it")
    if code:
        raise Broken(f"migrate ended with code {code} after a fault: {lane.log()[-500:]}")
    found = lane.schema(database)
    if found != lane.declared:
        differs = set(found) ^ set(lane.declared)
        raise Broken(f"migrate left another schema than it makes without a fault: {differs}")


def _code(process: subprocess.Popen[bytes], what: str) -> int:
    try:
        return process.wait(PROCESS_PATIENCE)
    except subprocess.TimeoutExpired:
        raise Broken(f"{what} did not end in {PROCESS_PATIENCE:.0f} s") from None
