"""No tick and no request is lost: the laws of due times, over the history of runs and what the rows say in the end.

Each minute has a tick, so that a request which was lost is followed by a run all the same. What tells is the due time
that the run took: a request, and every close, leaves one behind, and nobody may move it later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from tests.chaos.laws import Past
from tests.chaos.soaked.plan import BACKOFF
from tests.chaos.subjects.sizes import MAX_ATTEMPTS

_MINUTE = timedelta(minutes=1)
_LONGEST_BACKOFF = timedelta(minutes=15)
"""Of the sweep, which does not know what a collector declares."""

Runs = Mapping[str, list[Past]]


class Standing(NamedTuple):
    """What a collector's row says in the end.

    Attributes:
        ticks: whether the collector has a schedule: every minute.
        due: the next due time; None for infinity.
    """

    name: str
    ticks: bool
    is_held: bool
    due: datetime | None


class Service(NamedTuple):
    """How the requests were served: what is broken, the longest wait for a run, and for one that ended well; in s."""

    broken: list[str]
    longest_wait: float
    longest_to_ok: float


def every_request_was_served(requests: Iterable[tuple[str, datetime]], runs: Runs) -> Service:
    """Look for the run of each request: the first that began after it, at its due time or an earlier one.

    If that failed or was lost, one that follows has to end well, or to be the last that the attempt rule allows.
    """
    broken: list[str] = []
    wait = to_ok = 0.0
    for name, at in requests:
        following = [run for run in runs.get(name, ()) if run.started_at >= at]
        if not following:
            broken.append(f"{name}: asked to run at {at}, and never ran again")
            continue
        first = following[0]
        wait = max(wait, (first.started_at - at).total_seconds())
        if first.scheduled_for is None or first.scheduled_for > at:
            broken.append(f"{name}: asked to run at {at}, but run {first.id} served {first.scheduled_for}")
        last = next((run for run in following if run.outcome == "OK" or _is_spent(run)), None)
        if last is None:
            broken.append(f"{name}: asked to run at {at}, run {first.id} ended {first.outcome}, none ended well since")
        elif last.outcome == "OK":
            to_ok = max(to_ok, (last.finished_at - at).total_seconds())
    return Service(broken, wait, to_ok)


def no_due_time_was_lost(standings: Iterable[Standing], runs: Runs) -> list[str]:
    """Look at the due time of each run, and of each row in the end: not later than what the close before gave back."""
    return [f"{each.name}: {fault}" for each in standings for fault in _lost(each, runs.get(each.name, []))]


def _lost(row: Standing, line: list[Past]) -> Iterator[str]:
    for run in line:
        if run.scheduled_for is None or run.scheduled_for > run.started_at:
            yield f"run {run.id} began at {run.started_at}, due {run.scheduled_for}"
    for before, after in pairwise(line):
        given = _given_back(before, ticks=row.ticks)
        if _is_later(after.scheduled_for, given):
            yield f"run {before.id} ({before.outcome}) gave {given} back, run {after.id} served {after.scheduled_for}"
    last = line[-1] if line else None
    if last is None or row.is_held != (last.outcome == "RUNNING"):
        yield f"{'held' if row.is_held else 'free'}, and its last run is {last}"
    elif not row.is_held and _is_later(row.due, given := _given_back(last, ticks=row.ticks)):
        yield f"run {last.id} ({last.outcome}) gave {given} back, it is due at {row.due}"


def everything_ran_in_the_end(standings: Iterable[Standing], runs: Runs, since: datetime) -> list[str]:
    """Look for a run of each collector that began after the sources had moved for the last time, and ended well."""
    return [
        f"{each.name}: has not run to its end since {since}, when its source moved for the last time"
        for each in standings
        if not any(run.outcome == "OK" and run.started_at >= since for run in runs.get(each.name, ()))
    ]


def _is_later(due: datetime | None, given: datetime | None) -> bool:
    return given is not None and (due is None or due > given)


def _is_spent(run: Past) -> bool:
    return run.outcome in {"FAILED", "LOST"} and run.attempt >= MAX_ATTEMPTS


def _given_back(run: Past, *, ticks: bool) -> datetime | None:
    """Return the latest due time that the close of this run may have left; None if that is not before a change."""
    tick: datetime | None = run.started_at.replace(second=0, microsecond=0) + _MINUTE if ticks else None
    due: datetime | None = run.scheduled_for
    if run.outcome in {"HANDED_OVER", "REVOKED"} or (run.outcome == "LOST" and not _is_spent(run)):
        return due
    if run.outcome == "OK" or (_is_spent(run) and ticks):
        return tick
    ended: datetime = run.finished_at
    if _is_spent(run):
        return ended + (BACKOFF[1] if run.outcome == "FAILED" else _LONGEST_BACKOFF)
    retry = ended + min(BACKOFF[1], BACKOFF[0] * 2 ** (run.attempt - 1))
    return retry if tick is None else min(retry, tick)
