"""The five fields of a cron specification: what each takes, and what is said of one that cannot be used."""

from __future__ import annotations

import re
from typing import NamedTuple

from collectkit.errors import ScheduleError

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class _Field(NamedTuple):
    """One of the five fields: which numbers, words and signs it takes."""

    name: str
    first: int
    last: int
    # Where `*` and `n/step` end. Sunday is 0 and 7; counting both would give some steps an eighth day.
    end: int
    takes: str = "a number"
    words: tuple[str, ...] = ()
    special: re.Pattern[str] = re.compile(r"(?!)")


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_TAKES_DAYS = "a number, a name from SUN to SAT, a last one (5L) or an n-th one (5#1 to 5#5)"
_FIELDS = (
    _Field("minute", 0, 59, 59),
    _Field("hour", 0, 23, 23),
    _Field("day of month", 1, 31, 31, "a number, L or LW", special=re.compile("LW?")),
    _Field("month", 1, 12, 12, "a number or a name from JAN to DEC", _MONTHS),
    _Field("day of week", 0, 7, 6, _TAKES_DAYS, _DAYS, re.compile(rf"[0-7]L|([0-7]|{'|'.join(_DAYS)})#[1-5]")),
)


def parse_fields(spec: str) -> list[str]:
    """Return the five fields in the plain words of cronsim: numbers, lists, ``*`` and ``*/step``."""
    texts = spec.split()
    if texts[:1] and texts[0].startswith("@"):
        if spec.strip() not in _ALIASES:
            raise ScheduleError(spec, f"no such alias; there are {', '.join(_ALIASES)}")
        texts = _ALIASES[spec.strip()].split()
    names = ", ".join(field.name for field in _FIELDS)
    if len(texts) == len(_FIELDS) + 1:
        raise ScheduleError(spec, f"six fields: seconds are not supported, a tick is a whole minute; give {names}")
    if len(texts) != len(_FIELDS):
        raise ScheduleError(spec, f"five fields are wanted, not {len(texts)}: {names}")
    return [_listed(spec, field, text) for field, text in zip(_FIELDS, texts, strict=True)]


def _listed(spec: str, field: _Field, text: str) -> str:
    try:
        return ",".join(_item(field, item) for item in text.split(","))
    except ValueError as fault:
        raise ScheduleError(spec, f"{field.name}: {fault}") from None


def _item(field: _Field, item: str) -> str:
    if field.special.fullmatch(item.upper()):
        return item.upper()
    span, slash, step = item.partition("/")
    values = field.end - field.first + 1
    if slash and not (step.isascii() and step.isdigit() and 1 <= int(step) <= values):
        raise ValueError(f"the step of {item!r} is not a number from 1 to {values}")
    if span == "*":
        return item
    low_text, dash, high_text = span.partition("-")
    low = _number(field, low_text, item)
    high = _number(field, high_text, item) if dash else field.end if slash else low
    if low > high and not dash:
        low = field.first  # 7/2 counts from Sunday, as 0/2 does
    if high < low:
        parts = (f"{a}-{b}" if a < b else str(a) for a, b in ((low, field.end), (field.first, high)))
        raise ValueError(f"the range {span!r} runs backwards: write {','.join(parts)!r}")
    # Written out: cronsim reads a range of one value with a step, 5-5/2, as one without an end.
    return ",".join(map(str, range(low, high + 1, int(step or 1))))


def _number(field: _Field, text: str, item: str) -> int:
    if text.upper() in field.words:
        return field.words.index(text.upper()) + field.first
    if not (text.isascii() and text.isdigit()):
        if text == item:
            raise ValueError(f"{text!r} is not {field.takes}")
        raise ValueError(f"{text!r} of {item!r} is not a number{' or a name' if field.words else ''}")
    if not field.first <= int(text) <= field.last:
        raise ValueError(f"{text!r} is not between {field.first} and {field.last}")
    return int(text)
