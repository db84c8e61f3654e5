"""The commands that a fault strikes instead of a worker: ``migrate``, and ``run`` by hand; how they must end."""

from __future__ import annotations

import signal
import subprocess

from tests.chaos.cases import Case
from tests.chaos.lane import Lane
from tests.chaos.verdict import Broken, NotPlayed

PROCESS_PATIENCE = 60.0
_NOT_CLAIMED = 3
_ALL = 1 << 30


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
    elif case.fault in {"term", "raise"} and case.point in {"close.answered", "run.closed"}:
        # It was struck when its run had been closed.
        is_right = code != 0 or outcomes == [("OK",)]
    else:
        is_right = (code == 0) == (outcomes == [("OK",)])
    if not is_right:
        raise Broken(f"collectkit run ended with code {code}, the ledger has {outcomes or 'no run'} of it")


def begin_migration(lane: Lane, kind: str) -> None:
    """Start ``migrate``, with something to do."""
    if kind == "fresh":
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


def finish_migration(lane: Lane, kind: str) -> None:
    """Migrate again, as an operator does who saw it fail, and compare what each left that saw no failure with the code.

    Raises:
        Broken: one of them did not end, the second one failed, or the schema differs.
    """
    database = f"fresh_{lane.number}" if kind == "fresh" else lane.database
    code = _code(lane.spare.process, "the migrate that was struck")
    lane.spare.database.lose_nothing()
    if code == 0:
        _compare(lane, database, "the migrate that was struck and saw no failure")
    lane.end(lane.spare.process)
    code = _code(lane.start(lane.spare, "migrate", database=database), "the migrate after it")
    if code:
        raise Broken(f"migrate ended with code {code} after a fault: {lane.log()[-500:]}")
    _compare(lane, database, "the migrate after it")


def writes_of_a_migration(lane: Lane, kind: str) -> list[int]:
    """Migrate without a fault; return which of the answers it gets, counted from 0, say that something is written.

    To lose another one is to lose the one before it, for nothing has changed since then.
    """
    spared, _ = _lose_an_answer(lane, kind, _ALL)
    return [number for number, said in enumerate(spared) if said.split()[0] not in {"BEGIN", "SELECT", "SET"}]


def lose_an_answer_of_a_migration(lane: Lane, kind: str, number: int) -> None:
    """Migrate, lose this answer, and migrate again.

    Raises:
        Broken: as in ``finish_migration``.
        NotPlayed: there was no such answer.
    """
    _, lost = _lose_an_answer(lane, kind, number)
    if not lost:
        raise NotPlayed(f"migrate got no answer {number}")


def _lose_an_answer(lane: Lane, kind: str, number: int) -> tuple[list[str], list[str]]:
    database = lane.spare.database
    spared, lost = len(database.spared), len(database.lost)
    database.lose_answer(spared=number)
    try:
        begin_migration(lane, kind)
        finish_migration(lane, kind)
    finally:
        lane.tidy()
    return database.spared[spared:], database.lost[lost:]


def _compare(lane: Lane, database: str, what: str) -> None:
    if differs := set(lane.schema(database)) ^ set(lane.declared):
        raise Broken(f"{what} left another schema than one without a fault: {differs}")


def _code(process: subprocess.Popen[bytes], what: str) -> int:
    try:
        return process.wait(PROCESS_PATIENCE)
    except subprocess.TimeoutExpired:
        raise Broken(f"{what} did not end in {PROCESS_PATIENCE:.0f} s") from None
