"""How log lines look: plain for people, one JSON object a line for machines."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Literal

import msgspec

_CONSOLE = "%(asctime)s %(levelname)-7s %(message)s  [%(name)s]"
_EXTRAS = ("collector", "run")


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line; an exception is a field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "thread": record.threadName,
        }
        line |= {name: getattr(record, name) for name in _EXTRAS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure(log_format: Literal["console", "json"], level: int = logging.INFO) -> None:
    """Set the format of the root logger's handlers, one on standard error if there are none yet.

    dramatiq makes its own handler, which carries the lines of all its processes over a pipe; it keeps it.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=level)
    formatter = JsonFormatter() if log_format == "json" else logging.Formatter(_CONSOLE)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    # httplib-level chatter of the libraries underneath says nothing that a run's own line does not say.
    for name in ("urllib3", "periodiq"):
        logging.getLogger(name).setLevel(logging.WARNING)
