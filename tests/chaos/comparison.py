"""The same kills against ours and against a lock-and-ORM collector in the common style: what each of them loses."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.chaos.compared.feed import COLLECTORS, LOCK_TTL, PER_STEP, STEPS
from tests.chaos.fleet import WORKER, Fleet
from tests.chaos.published import publish
from tests.chaos.soaked.source import Source, generate
from tests.chaos.truth import differences
from tests.site import Site

SIDES = {
    "collectkit": {},
    "common style, the lock decides": {"COMPARED_TRUSTS_STATE": "no"},
    "common style, the lock and the stored state decide": {"COMPARED_TRUSTS_STATE": "yes"},
}
_COMMON = ("tests.chaos.compared.common", "--processes=2", "--threads=4")
_PATIENCE = 40.0
_TICK = 1.0


@dataclass(frozen=True)
class Result:
    """What a side has when all is over, and had forty seconds to mend itself.

    Attributes:
        missing: rows that are not there, whether they were lost or never collected, as where a collector is stuck.
        stuck: collectors that did not get to the end of their source.
    """

    side: str
    faults: dict[str, int]
    missing: int
    doubled: int
    stuck: int


def compare(home: Path, side: str, seed: int, seconds: float, faults: dict[str, int]) -> Result:
    """Play the scenario against this side: a tick a second, a source that moves, faults evenly over the time."""
    home.mkdir()
    for number in range(COLLECTORS):
        generate(home / f"feed_{number}", f"{seed}/{number}", STEPS, PER_STEP)
    publish(home / "step", "0")
    ours = side == "collectkit"
    environ = {"COLLECTKIT_COLLECTORS": "tests.chaos.compared.ours", "SOAK_DIR": str(home), **SIDES[side]}
    with Site(home, {}, ttl=LOCK_TTL, environ=environ) as site:
        if not ours:
            assert site.run(module="tests.chaos.compared.common").wait(60) == 0, site.log()
        random = Random(f"comparison/{seed}")
        # The ticks are this test's, on both sides: no scheduler, whose death would be a fault that spares the workers.
        fleet = Fleet(site, random, [WORKER if ours else _COMMON] * 2, module="collectkit" if ours else "dramatiq")
        tick = _Ours(site) if ours else _Common(site)
        order = [fault for fault, count in faults.items() for _ in range(count)]
        random.shuffle(order)
        began, struck, ticks = time.monotonic(), 0, 0
        try:
            while (passed := time.monotonic() - began) < seconds:
                publish(home / "step", str(min(STEPS - 1, int(passed / seconds * STEPS))))
                if passed >= ticks * _TICK:
                    tick()
                    ticks += 1
                if struck < len(order) and passed >= struck * seconds / len(order):
                    struck += fleet.strike(order[struck])
                fleet.tend()
                time.sleep(0.05)
            fleet.calm()
            publish(home / "step", str(STEPS - 1))
            ended = time.monotonic()
            while time.monotonic() - ended < _PATIENCE:
                tick()
                fleet.tend()
                if ours and _is_complete(site):
                    break
                time.sleep(_TICK)
            return _result(site, home, side, dict(fleet.done))
        finally:
            fleet.end()


class _Ours:
    def __init__(self, site: Site) -> None:
        self._site = site

    def __call__(self) -> None:
        """Have every collector run now."""
        for number in range(COLLECTORS):
            self._site.ask(f"compared.{number}")


class _Common:
    def __init__(self, site: Site) -> None:
        self._broker = RedisBroker(url=site.environ["COLLECTKIT_BROKER_URL"], middleware=[])
        self._broker.declare_queue("default")

    def __call__(self) -> None:
        """Send each collector its message, as a scheduler does at each tick."""
        for number in range(COLLECTORS):
            self._broker.enqueue(
                dramatiq.Message(queue_name="default", actor_name="collect", args=(number,), kwargs={}, options={})
            )


def _result(site: Site, home: Path, side: str, faults: dict[str, int]) -> Result:
    missing = doubled = stuck = 0
    for number in range(COLLECTORS):
        expected = Counter((v.seq, v.value) for v in _source(home, number))
        found = Counter(site.sql("SELECT seq, value FROM row WHERE stream = %s", number))
        different = differences(expected, found)
        missing += len(different["lost"])
        doubled += len(different["doubled"])
        stuck += (STEPS * PER_STEP - 1) not in {seq for seq, _ in found}
    return Result(side, faults, missing, doubled, stuck)


def _is_complete(site: Site) -> bool:
    return site.sql("SELECT count(DISTINCT (stream, seq)) FROM row") == [(COLLECTORS * STEPS * PER_STEP,)]


def _source(home: Path, number: int) -> list:
    return Source(home / f"feed_{number}", PER_STEP).after(0, STEPS - 1, STEPS * PER_STEP)
