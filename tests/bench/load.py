"""300,000 scores into PostgreSQL by a collector's run, against the same load done in other ways.

Each way is a process of its own, in ``rivals/``, that begins anew in every round: an empty table, a first file, then
one in which two rows of a hundred differ. After each file the table must hold what the file does. The ways take turns
on one server, which has its default durability, and on the same tables; dlt makes its own. A collector's run fetches
its file over HTTP from a local server; the others have it on the disk.

Figures are medians, in seconds from the order to the commit; imports and the connection are there before. Memory is the
peak of the process above what it had then.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

ROOT = Path(__file__).resolve().parents[2]
RIVALS = Path(__file__).with_name("rivals")
OTHERS = ROOT / ".venv-rivals"
sys.path[:0] = [str(ROOT), str(RIVALS)]

from collectkit_load import scores_collector  # noqa: E402 - found by the line above

from collectkit import Settings, connect, group_ids  # noqa: E402
from collectkit.discovery import describe  # noqa: E402
from collectkit.embedded import EmbeddedPostgres  # noqa: E402
from collectkit.migrate import migrate  # noqa: E402
from collectors.epss.tasks import epss_collector  # noqa: E402
from tests.replay import Answer, Replay  # noqa: E402

ROWS, CHANGED, ROUNDS = 300_000, 0.02, 5
CONTENT = """
SELECT md5(string_agg(concat_ws(',', cve_id, round(epss, 5), round(percentile, 5)), E'\\n' ORDER BY cve_id COLLATE "C"))
  FROM {}
"""
AFRESH = (
    "TRUNCATE scores, epss",
    "UPDATE collectkit.collector SET meta_attr = '{}', data_state = 'EMPTY', updated_until_dt = NULL",
)
SETTLE = ("VACUUM ANALYZE", "CHECKPOINT")  # so that no way pays for the one before it
RATIOS = (
    ("collector", "raw COPY", "goals: at most 1.3, at most 1.8"),
    ("epss, groups", "raw COPY, groups", "no goals"),
    ("Peewee", "collector", "goal: the second at least 6"),
    ("Peewee, sparing", "collector", "no goal"),
    ("dlt rows", "collector", "goal: the second at least 10"),
    ("dlt arrow", "collector", "goal: the second at least 2"),
)
LOADS = ("first", "changed")
RUNS = (*LOADS, "same", "304", "bytes")


class Way(NamedTuple):
    """How to load, and where to: a program of ``rivals/`` with its arguments, and the table that must hold the rows."""

    program: str
    arguments: tuple[str, ...]
    table: str
    steps: tuple[str, ...] = LOADS
    python: str = sys.executable


class Step(NamedTuple):
    """A gzipped file of scores, its validator, and the digest of its lines in order."""

    file: Path
    etag: str
    content: str


def write_files(place: Path) -> dict[str, Step]:
    """A first day; the next, some rows changed; the same rows of another date; and these bytes again, twice."""
    chance = random.Random(1)

    def score() -> str:
        return f"{chance.random() ** 8:.5f}"

    day = {f"CVE-{1999 + n * 28 // ROWS}-{1000 + n}": (score(), f"{chance.random():.5f}") for n in range(ROWS)}
    next_day = day | {cve: (score(), day[cve][1]) for cve in chance.sample(sorted(day), int(ROWS * CHANGED))}
    steps = {}
    for date, (name, scores) in enumerate({"first": day, "changed": next_day, "same": next_day}.items(), 21):
        lines = [f"{cve},{epss},{percentile}" for cve, (epss, percentile) in scores.items()]
        head = [f"#model_version:v1,score_date:2026-11-{date}T12:00:00Z", "cve,epss,percentile"]
        file = place / f"{name}.csv.gz"
        file.write_bytes(gzip.compress("\n".join([*head, *lines, ""]).encode(), mtime=0))
        steps[name] = Step(file, name, hashlib.md5("\n".join(sorted(lines)).encode()).hexdigest())
    return steps | {"304": steps["same"], "bytes": steps["same"]._replace(etag="another")}


def ways(url: str, place: Path, number: int, *, rivals: bool) -> dict[str, Way]:
    group = str(group_ids(["public"])[0])
    all_ways = {
        "collector": Way("collectkit_load.py", ("scores", url, str(place)), "scores", RUNS),
        "raw COPY": Way("raw_copy.py", (url, "scores"), "scores"),
        "epss, groups": Way("collectkit_load.py", ("epss", url, str(place)), "epss", RUNS),
        "raw COPY, groups": Way("raw_copy.py", (url, "epss", group), "epss"),
    }
    if rivals:
        python = str(OTHERS / "bin" / "python")
        all_ways["Peewee"] = Way("peewee_load.py", (url,), "scores", python=python)
        all_ways["Peewee, sparing"] = Way("peewee_load.py", (url, "sparing"), "scores", python=python)
        for kind in ("rows", "arrow"):
            dataset = f"dlt_{kind}_{number}"  # with a new one it has nothing to remember
            arguments = (kind, url, dataset, str(place / "dlt"))
            all_ways[f"dlt {kind}"] = Way("dlt_load.py", arguments, f"{dataset}.scores", python=python)
    return all_ways


class Taken(NamedTuple):
    seconds: float
    megabytes: float


@contextmanager
def at_work(way: Way) -> Iterator[subprocess.Popen[str]]:
    """The program has imported and connected; it ends with its input."""
    command = [way.python, RIVALS / way.program, *way.arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{way.program} did not start")
        yield process
        process.stdin.close()


def turn(way: Way, steps: Mapping[str, Step], admin: psycopg.Connection, source: Replay) -> dict[str, Taken]:
    """Load one file after the other, and check after each what the table holds."""
    for statement in AFRESH:
        admin.execute(statement)
    taken = {}
    with at_work(way) as process:
        for name in way.steps:
            step = steps[name]
            answer = Answer(body=step.file.read_bytes(), content_type="application/gzip", etag=step.etag)
            source.answer("/scores.csv.gz", answer)
            for statement in SETTLE:
                admin.execute(statement)
            process.stdin.write(f"{step.file}\n")
            process.stdin.flush()
            said = process.stdout.readline().split()
            if admin.execute(CONTENT.format(way.table)).fetchone() != (step.content,):
                raise SystemExit(f"{way.program}: the table does not hold the file {step.file.name}")
            taken[name] = Taken(*map(float, said))
    dataset, dot, _ = way.table.rpartition(".")
    if dot:
        admin.execute(f"DROP SCHEMA {dataset}, {dataset}_staging CASCADE")
    return taken


def report(figures: Mapping[str, list[dict[str, Taken]]]) -> None:
    def median(way: str, step: str) -> float:
        return statistics.median(taken[step].seconds for taken in figures[way])

    def ratio(way: str, other: str, step: str) -> str:
        return f"{median(way, step) / median(other, step):.2f}"

    def memory(way: str) -> float:
        return max(taken[step].megabytes for taken in figures[way] for step in LOADS)

    print(f"\n{ROWS:,} rows, medians of {len(figures['collector'])}: first load, {CHANGED:.0%} changed, peak memory")
    for way in figures:
        print(f"{way:18} {median(way, 'first'):6.2f} s {median(way, 'changed'):6.2f} s {memory(way):5.0f} MB")
    print(f"\nratios of the first load and of the load with {CHANGED:.0%} changed:")
    for way, other, goals in RATIOS:
        if way in figures:
            print(f"{way} / {other}: {ratio(way, other, 'first')} and {ratio(way, other, 'changed')} ({goals})")
    for ours in ("collector", "epss, groups"):
        same, known, again = (median(ours, step) for step in RUNS[2:])
        print(f"{ours}, {ROWS:,} rows loaded of which none differs: {same:.2f} s")
        print(f"    nothing loaded, answered 304: {known * 1000:.1f} ms, {known / same:.1%} of that (goal: below 2%)")
        print(f"    nothing loaded, same bytes: {again * 1000:.0f} ms, {again / same:.1%} of that")
    print(f"peak memory of a collector's run above its imports: {memory('collector'):.0f} MB (goal: below 60)")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--without-rivals", action="store_true", help="spare the slow ones: Peewee and dlt")
    given = options.parse_args()
    rivals = not given.without_rivals and (OTHERS / ".ready").exists()
    if not rivals and not given.without_rivals:
        print(f"without Peewee and dlt: `make {OTHERS.name}/.ready` makes their environment, or says why not")
    place = Path(tempfile.mkdtemp(prefix="collectkit-bench-"))
    place.chmod(0o711)
    server = EmbeddedPostgres(place)
    try:
        with Replay() as source:
            url, password = server.start(), (server.home / "superuser.password").read_text()
            os.environ |= {
                "EPSS_COLLECTOR_URL": source.base + "/scores.csv.gz",
                "no_proxy": "127.0.0.1",
                "RUNTIME__DLTHUB_TELEMETRY": "false",
                "RUNTIME__LOG_LEVEL": "ERROR",
            }
            connect(Settings(database_url=url, state_dir=place))
            migrate(describe([scores_collector, epss_collector]))
            steps, figures = write_files(place), defaultdict(list)
            as_admin = psycopg.conninfo.make_conninfo(url, user="postgres", password=password)
            with psycopg.connect(as_admin, autocommit=True) as admin:
                for number in range(1, given.rounds + 1):
                    for name, way in ways(url, place, number, rivals=rivals).items():
                        figures[name].append(turn(way, steps, admin, source))
                    print(f"round {number} of {given.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
            report(figures)
    finally:
        server.stop()
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
