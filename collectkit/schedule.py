"""When a schedule fires: cron specifications, their time zones, and what follows from them for freshness.

Three layers, each of one kind. ``cronsim`` says which wall-clock times a specification names, ``zoneinfo`` at which
moments a clock on that wall shows them, and ``CronSpec`` joins the two under the name that periodiq knows. Neither
periodiq's own arithmetic is used (it never fires ``@weekly``, and is wrong on most specifications with more than one
restricted field) nor cronsim's handling of time zones (it steps over ticks where clocks change by half an hour, and
repeats one when asked within the hour that a clock shows twice).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NoReturn, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import pendulum
import periodiq
from cronsim import CronSim, CronSimError

from collectkit.cron_fields import parse_fields
from collectkit.errors import ScheduleError

# The shortest time that a run is given before its next tick counts against it.
_SETTLING = timedelta(seconds=60)
_INSTANT = timedelta(microseconds=1)
# 29 February falls on a given weekday again within 40 years, across a century without a leap day.
_YEARS_AHEAD = 50
# Ticks that were found stay true until they have passed; a run asks for the same three over and over.
_REMEMBERED = 4
# Whether a specification ever fires is asked once, from here, so that the answer is the same on every day.
_ORIGIN = datetime(2020, 1, 1, tzinfo=UTC)


def cron(spec: str, tz: str = "UTC") -> CronSpec:
    """Return the schedule that ``spec`` names on the clocks of ``tz``.

    Args:
        spec: five fields (minute, hour, day of month, month, day of week) or one of ``@hourly``, ``@daily``,
            ``@midnight``, ``@weekly``, ``@monthly``, ``@yearly``, ``@annually``.
        tz: the name of a time zone, such as ``Europe/Berlin``.

    Raises:
        ScheduleError: the specification, its zone or both cannot be used; the message names the field.
    """
    return CronSpec(spec, tz)


class CronSpec(periodiq.CronSpec):  # type: ignore[misc]  # periodiq has no types
    """A schedule in one time zone, which periodiq's own command can plan with.

    When clocks change, the rules of Vixie's and Debian's cron hold:

    - A schedule whose minute and hour both begin with something else than ``*`` names times of day, and each is
      served once. One that the clocks skip fires at the moment of the change (02:30 at 03:00), one that they show
      twice fires the first time.
    - A schedule whose minute or hour begins with ``*`` follows the clock as it goes. What is skipped does not fire,
      and what is shown twice fires twice, so ``*/15 * * * *`` is always a quarter of an hour apart.

    Ticks are whole minutes, strictly increasing, none of them given twice.

    Attributes:
        spec: the specification as written, aliases included.
        tz: the name of the time zone.
    """

    spec: str
    tz: str
    _zone: ZoneInfo
    _fields: str
    _recent: tuple[tuple[datetime, datetime], ...]
    _names_times_of_day: bool

    def __init__(self, spec: str, tz: str = "UTC") -> None:
        fields = parse_fields(spec)
        # periodiq's own attributes (expanded minutes, hours, ...) are not set: nothing here would keep them true.
        self.__dict__.update(
            spec=spec,
            tz=tz,
            _zone=_zone(spec, tz),
            _fields=" ".join(fields),
            _recent=(),
            _names_times_of_day=not (fields[0].startswith("*") or fields[1].startswith("*")),
        )
        self.next_tick(_ORIGIN)

    def next_tick(self, after: datetime) -> datetime:
        """Return the first tick strictly after ``after``, in UTC.

        Raises:
            ValueError: ``after`` has no time zone.
            ScheduleError: the schedule does not fire within the next 50 years.
        """
        moment = _in_utc(after)
        for start, tick in self._recent:
            if start <= moment < tick:
                return tick
        tick = self._search(moment)
        # One assignment, so that threads need no lock: the worst that a race costs is a search.
        self.__dict__["_recent"] = ((moment, tick), *self._recent[: _REMEMBERED - 1])
        return tick

    def _search(self, moment: datetime) -> datetime:
        wall = moment.astimezone(self._zone)
        if self._names_times_of_day:
            ticks = (self._served(time) for time in self._times_after(wall))
            return next(tick for tick in ticks if tick > moment)
        # Each wall-clock time is read as one before and as one after a change back: the two differ only in an hour
        # that is shown twice. Within its first showing, the second reading begins anew where that hour began.
        again = wall - (_offset(wall) - _offset(wall.replace(fold=1)))
        return min(self._shown(wall, 0, moment), self._shown(again, 1, moment))

    def validate(self, date: datetime) -> bool:
        """Return whether the minute that ``date`` lies in is a tick; periodiq sends a message if so."""
        moment = _in_utc(date)
        wall = moment.astimezone(self._zone)
        minute = moment - timedelta(seconds=wall.second, microseconds=wall.microsecond)
        return self.next_tick(minute - _INSTANT) == minute

    def next_valid_date(self, last: datetime) -> pendulum.DateTime:
        """Return the first tick strictly after ``last``, in the zone of ``last``; periodiq sleeps until then."""
        tick = self.next_tick(last)
        return pendulum.instance(tick).in_timezone(pendulum.instance(last).timezone or "UTC")

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Return the schedule of ``spec`` in UTC, as periodiq's ``parse`` does."""
        return cls(spec)

    def astuple(self) -> tuple[str, str]:
        """Return what makes two schedules the same: the specification and the zone."""
        return self.spec, self.tz

    def replace(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a schedule does not change."""
        raise TypeError(f"a schedule does not change: write cron(...) anew instead of altering {self!r}")

    __setattr__ = replace

    def __eq__(self, other: object) -> bool:
        return self.astuple() == other.astuple() if isinstance(other, CronSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.astuple())

    def __reduce__(self) -> tuple[Any, ...]:
        return cron, self.astuple()

    def __str__(self) -> str:
        return self.spec

    def __repr__(self) -> str:
        return f"cron({self.spec!r}, tz={self.tz!r})"

    def _times_after(self, wall: datetime) -> Iterator[datetime]:
        """Yield the wall-clock times that the specification names after ``wall``, whether or not they exist."""
        try:
            for time in CronSim(self._fields, wall.replace(tzinfo=None)):
                if time.year > wall.year + _YEARS_AHEAD:
                    break
                yield time
        except CronSimError:
            pass  # cronsim sees by itself that no month has such a day: every field was checked before
        which = "day of month, month, day of week and time do not meet"
        raise ScheduleError(self.spec, f"never fires: {which} in the {_YEARS_AHEAD} years after {wall:%Y-%m-%d}")

    def _served(self, time: datetime) -> datetime:
        """Return the moment at which clocks first show ``time``, or at which they skip it."""
        late = time.replace(tzinfo=self._zone).astimezone(UTC)
        if self._clock(late) == time:
            return late
        # Read with the offset of before, a skipped time lies after the change, with the offset of after before it.
        early = time.replace(tzinfo=self._zone, fold=1).astimezone(UTC)
        moments = range(int((late - early).total_seconds()) + 1)
        new = _offset(late.astimezone(self._zone))
        change = bisect_left(
            moments, x=True, key=lambda s: _offset((early + timedelta(seconds=s)).astimezone(self._zone)) == new
        )
        return early + timedelta(seconds=change)

    def _shown(self, wall: datetime, fold: int, after: datetime) -> datetime:
        """Return the first moment after ``after`` at which clocks show a named time, read with ``fold``."""
        times = self._times_after(wall)
        readings = ((time, time.replace(tzinfo=self._zone, fold=fold).astimezone(UTC)) for time in times)
        return next(tick for time, tick in readings if tick > after and self._clock(tick) == time)

    def _clock(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None)


def tick_after(schedule: str | None, tz: str, at: datetime) -> datetime | None:
    """Return the first tick strictly after ``at``, in UTC, or None without a schedule."""
    return _parsed(schedule, tz).next_tick(at) if schedule is not None else None


def stale_at(schedule: str | None, tz: str, fresh_for: timedelta | None, watermark: datetime) -> datetime | None:
    """Return the moment, in UTC, from which data that are complete until ``watermark`` are no longer up to date.

    That is ``fresh_for`` after the watermark if declared. Otherwise it is the second tick after it, so that data stay
    fresh until the run of the next tick has had a whole period; a run that starts moments before its tick is given
    60 seconds, or that tick would count as the next one. None means never: neither is declared.
    """
    moment = _in_utc(watermark)
    if fresh_for is not None:
        return moment + fresh_for
    first = tick_after(schedule, tz, moment + _SETTLING)
    return tick_after(schedule, tz, first) if first is not None else None


# A ledger of thousands of collectors holds a few dozen schedules; parsing one costs more than its tick.
_parsed = lru_cache(maxsize=512)(cron)


def _in_utc(moment: datetime) -> datetime:
    """Return ``moment`` as a plain datetime in UTC: elsewhere arithmetic follows the wall, not the time that passes."""
    if moment.utcoffset() is None:
        raise ValueError(f"{moment!r} has no time zone: give an aware datetime")
    moment = moment.astimezone(UTC)
    return datetime.combine(moment.date(), moment.time(), UTC)


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta(0)


def _zone(spec: str, tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder, such as 'America'
        near = get_close_matches(tz.casefold(), names := {name.casefold(): name for name in available_timezones()}, 1)
        cure = f"did you mean {names[near[0]]!r}?" if near else "give a name such as 'Europe/Berlin'"
        raise ScheduleError(spec, f"time zone {tz!r} is unknown: {cure}") from None
