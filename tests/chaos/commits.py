"""Who may commit what: a run its own collector's tables, with a checkpoint, while the row has its fence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.site import Site

WITNESS_OF_COMMITS = (Path(__file__).parent / "commits.sql").read_text()
_TARGETS = {"append": "appended", "window": "event", "events": "event"}

_COMMITS = """
SELECT coalesce(w.by, c.by), w.target, r.collector, r.fence, c.name, c.fence, c.holder IS NOT NULL, count(*)
  FROM (SELECT DISTINCT transaction, target, by FROM witness.write) w
  FULL JOIN witness.checkpoint c USING (transaction)
  LEFT JOIN collectkit.run r ON 'collectkit ' || r.id = coalesce(w.by, c.by)
 GROUP BY 1, 2, 3, 4, 5, 6, 7
"""


class Commit(NamedTuple):
    """What a session committed to one table, or without any rows, and how often.

    Attributes:
        by: the session's name.
        target: the table; None if the transaction wrote no rows.
        collector: whose run the session's name tells of, and ``fence`` is that run's; None if it tells of none.
        checkpointed: whose row the checkpoint of the same transaction wrote; None if there was none.
        row_fence: what that row said then, and ``is_held`` whether it had a holder.
    """

    by: str
    target: str | None
    collector: str | None
    fence: int | None
    checkpointed: str | None
    row_fence: int | None
    is_held: bool
    times: int


def commits(site: Site) -> list[Commit]:
    """Return every commit that the witness has seen."""
    return [Commit(*row) for row in site.sql(_COMMITS)]


def every_commit_was_its_holders(seen: Iterable[Commit]) -> list[str]:
    """Look at each commit of each table: by whom it was, and who had the collector then."""
    return [
        f"{each.by!r} ({each.collector}, fence {each.fence}) committed {each.target or 'no rows'}, {each.times} times:"
        f" {fault}"
        for each in seen
        if (fault := _fault(each))
    ]


def _fault(each: Commit) -> str:
    if each.collector is None:
        return "it is no run"
    if each.checkpointed is None:
        return "there was no checkpoint"
    if each.checkpointed != each.collector:
        return f"the checkpoint was that of {each.checkpointed}"
    if not each.is_held or each.row_fence != each.fence:
        return f"the row had fence {each.row_fence} and {'another' if each.is_held else 'no'} holder"
    if each.target not in {None, _table(each.collector)}:
        return "the table is another collector's"
    return ""


def _table(collector: str) -> str:
    kind, _, number = collector.partition(".")[2].partition("_")
    return _TARGETS.get(kind, kind + number)
