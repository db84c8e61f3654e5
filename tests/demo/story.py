"""What the demo tells: a cold start, news from every source, a bad day, and how it gets well again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import collectkit
from tests.demo.sources import ASK_NOBODY, BREAKS, Sources
from tests.demo.stack import ACCOUNT, DemoFailed, Stack
from tests.demo.tables import MODELS, Difference, Rows, all_ranks, first_ten, rows_of
from tests.demo.telling import say, say_beside, shown, title

RENEWAL = 240.0
LINE = "  {:<10}  {:<21}{:>8}{:>8}{:>9}{:>6}{:>11}{:>9}"

Status = dict[str, dict[str, Any]]


class Story:
    """The days, one after the other, on sources that change and a stack that runs."""

    def __init__(self, sources: Sources, stack: Stack) -> None:
        self.sources = sources
        self.stack = stack
        self.shown = [*sources.feeds, *ASK_NOBODY]
        self.seen: dict[str, Rows] = {name: {} for name in self.shown if name in MODELS}
        self.ranks: dict[str, int] = {}
        self._authorization = ""

    def tell(self, *, stay_up: bool) -> None:
        """Tell all of it; where asked to, stay up until Ctrl-C."""
        say("All shipped collectors, on sources that this machine plays: they publish what they published on")
        say("recorded days (whose data these are, and their licences: tests/data). Nothing asks the network.")
        say("Of osv's ecosystems there is crates.io alone; exploitdb and metasploit are made up in their layout.")
        for name, why in self.sources.left_out.items():
            say(f"Without the collector {name}: {why}.")
        published = {name: self.sources.publish(name, 0) for name in self.sources.feeds}
        log = shown(self.stack.log)
        say(f"`collectkit up` starts PostgreSQL, Valkey, worker, scheduler and service; its log: {log}")
        began = time.monotonic()
        with self.stack.up():
            try:
                self._introduce(time.monotonic() - began)
                self._first_day(published, began)
                self._second_day()
                self._bad_day()
                self._recovery()
                say(f"All {len(self.shown)} collectors are COMPLETE and up to date.")
                if stay_up:
                    say("Everything stays up, each collector on its schedule; Ctrl-C stops it all. Look for yourself:")
                    self._invite()
                    self._stay()
            finally:
                say("Stopping.")  # in the middle of the story too: it takes a few seconds
        say("Stopped.")

    def _introduce(self, seconds: float) -> None:
        self._authorization = shown(self.stack.add_account())
        say(f"It runs after {seconds:.1f} s. The account {ACCOUNT!r} is made, its token is in {self._authorization}.")
        say("Look for yourself, now or later, from another terminal:")
        self._invite()

    def _invite(self) -> None:
        say("")
        for question in ("status", "data/kev"):
            say(f"  curl -s -H @{self._authorization} {self.stack.api}/collectors/api/v1/{question} | jq")
        command = shown(Path(sys.executable).with_name("collectkit"))
        say(f"  COLLECTKIT_STATE_DIR={shown(self.stack.state)} {command} status")

    def _first_day(self, published: dict[str, str], began: float) -> None:
        title("Day 1: a cold start. What has never run is due at once; `priority` waits for kev, epss and nvd.")
        self._settle(dict.fromkeys(self.shown, 0))
        self._account_for(published, after=0)
        say(f"  All are COMPLETE and up to date {time.monotonic() - began:.1f} s after the start of everything.")
        say("")
        say("  What to fix first, read from `priority` as a service of yours would read it:")
        say("")
        say('    with collectkit.acl_scope(["public"]):')
        say("        Priority.select().order_by(Priority.rank).limit(10)")
        say("")
        self._rank(with_reasons=True)

    def _second_day(self) -> None:
        title("Day 2: every source has news, and somebody asks for runs. Only rows that differ are written.")
        self._catch_up(day=1)
        say("  `priority` followed by itself: epss has a new model, so nearly every place is another one.")
        say("  Between equals severity decides, which the recorded part of nvd tells of the first one alone.")
        say("")
        self._rank(with_reasons=False)

    def _bad_day(self) -> None:
        title("Day 3: a bad day. Two sources are broken; the status says so, and their rows stand.")
        faults = {name: fault(self.sources) for name, fault in BREAKS.items()}
        mark = self._newest_run()
        self._request(faults)
        self._wait(lambda status: all(_ended(status[self._full(status, name)], "FAILED", mark) for name in faults))
        status = self.stack.status()
        for number, (name, fault) in enumerate(faults.items()):
            if number:
                say("")
            row = status[self._full(status, name)]
            changes = Difference.between(self.seen[name], rows_of(name))
            if changes.new or changes.changed or changes.gone:
                raise DemoFailed(f"{name} failed, and its rows are others than before: {changes}")
            fresh = "up to date" if row["is_up2date"] else "stale"
            data = f"{row['data']} and {fresh}, all {changes.rows:,} rows as they were"
            told = {"source": fault, "error": row["error"], "reason": row["reason"], "data": data}
            for key, words in told.items():
                say_beside(f"  {name if key == 'source' else '':<10}  {key:<8}", words)

    def _recovery(self) -> None:
        title("Day 4: both are well again. kev lists what it listed before; epss has a new file.")
        self._catch_up(day=2, names=list(BREAKS))

    def _catch_up(self, day: int, names: Collection[str] = ()) -> None:
        """Have the sources publish, ask for runs, wait until all is in, and show what came of it."""
        wanted = names or list(self.sources.feeds)
        published = {name: self.sources.publish(name, day) for name in wanted}
        mark = self._newest_run()
        self._request(wanted)
        self._settle(dict.fromkeys(wanted, mark))
        self._account_for(published, after=mark)

    def _request(self, names: Iterable[str]) -> None:
        for name in names:
            collectkit.request_run(f"{name}_collector", by="demo")

    def _settle(self, marks: Mapping[str, int]) -> None:
        """Return when these have succeeded in a newer run than the mark, and all is in, fresh and at rest."""

        def is_in(status: Status) -> bool:
            found = (_ended(status[self._full(status, name)], "OK", mark) for name, mark in marks.items())
            return all(found) and all(map(_rests, status.values()))

        self._wait(is_in)

    def _wait(self, holds: Callable[[Status], bool]) -> None:
        def missing() -> str:
            unfinished = {name: row for name, row in self.stack.status().items() if not _rests(row)}
            told = (f"{name} is {row['data']}: {row['reason']}; {row['error']}" for name, row in unfinished.items())
            return " and ".join(told) or "not all has run"

        self.stack.until(lambda: holds(self.stack.status()), missing)

    def _account_for(self, published: dict[str, str], after: int) -> None:
        """Show what became of the tables since the last time, and how long the runs took."""
        say(LINE.format("feed", "published", "rows", "new", "changed", "gone", "as before", "seconds"))
        status = self.stack.status()
        for name in [*published, *([] if after else ["example"]), "priority"]:
            seconds = f"{sum(map(_seconds, self.stack.runs(self._full(status, name), after))):.2f}"
            if name not in self.seen:
                say(LINE.format(name, "asks nobody", "-", "-", "-", "-", "-", seconds))
                continue
            rows = rows_of(name)
            found = Difference.between(self.seen[name], rows)
            self.seen[name] = rows
            numbers = (found.rows, found.new, found.changed, found.gone, found.untouched)
            written = (f"{number:,}" if number else "-" for number in numbers)
            say(LINE.format(name, published.get(name, "from kev, epss, nvd"), *written, seconds))
        say("")

    def _rank(self, *, with_reasons: bool) -> None:
        for row in first_ten():
            place = f"  {row.rank:>2}  {row.cve_id:<16}  {row.score:>11}  "
            if with_reasons:
                say_beside(place, row.why)
            else:
                say(f"{place}{self._moved(row)}")
        self.ranks = all_ranks()
        if with_reasons:
            say("")
            say("  Score: 1000 if known to be exploited, plus the probability in percent, plus severity / 100,000.")

    def _moved(self, row: Any) -> str:
        before = self.ranks.get(row.cve_id)
        return "new" if before is None else "as before" if before == row.rank else f"was {before:,}"

    def _newest_run(self) -> int:
        return max(row["last_run"]["id"] for row in self.stack.status().values() if row["last_run"])

    @staticmethod
    def _full(status: Status, name: str) -> str:
        return next(full for full in status if full.startswith(f"collectors.{name}."))

    def _stay(self) -> None:
        """Keep the token fresh until Ctrl-C."""
        with suppress(KeyboardInterrupt):
            while True:
                self.stack.wait(RENEWAL)
                with suppress(DemoFailed):  # the service may be starting again; a token outlives a few renewals
                    self.stack.renew_token()


def _rests(row: dict[str, Any]) -> bool:
    """Whether all is in and fresh, and nothing runs or is about to."""
    due = row["next_due"]
    waits = due is None or datetime.fromisoformat(due) > datetime.now(UTC)
    return bool(row["is_complete"] and row["is_up2date"] and row["state"] == "READY" and waits)


def _ended(row: dict[str, Any], outcome: str, mark: int) -> bool:
    """Whether the newest run ended so, and is newer than the mark."""
    last = row["last_run"]
    return last is not None and last["id"] > mark and last["outcome"] == outcome


def _seconds(run: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(run[key]) for key in ("started_at", "finished_at"))
    return (ended - began).total_seconds()
