"""Scores by dlt, as its documentation says for speed: pages or Arrow tables, as CSV, merged by key.

    dlt_load.py rows|arrow DATABASE_URL DATASET PIPELINES_DIR

``rows`` yields dictionaries by the ten thousand, ``arrow`` a whole table. The strategy "upsert" updates rows in place,
which comes nearest to what the others do. Rows that are gone would be left, so this does less than the others.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import dlt
import pyarrow as pa
from dlt.destinations import postgres
from pyarrow.csv import ConvertOptions, ReadOptions, read_csv
from turns import take_turns

_NAMES: Final = ["cve_id", "epss", "percentile"]
_PAGE: Final = 10_000
_HEAD: Final = 2  # a comment, and the names
_DECIMALS: Final[Any] = {"data_type": "decimal", "precision": 10, "scale": 9}
_EXACT: Final = pa.decimal128(10, 9)


def rows(file: str) -> Iterator[list[dict[str, str]]]:
    with gzip.open(file, "rt", newline="") as lines:
        records = csv.DictReader(islice(lines, _HEAD, None), _NAMES)
        while page := list(islice(records, _PAGE)):
            yield page


def arrow(file: str) -> pa.Table:
    types = {"cve_id": pa.string(), "epss": _EXACT, "percentile": _EXACT}
    with gzip.open(file) as body:
        return read_csv(
            body, ReadOptions(skip_rows=_HEAD, column_names=_NAMES), convert_options=ConvertOptions(column_types=types)
        )


def main() -> None:
    kind, url, dataset, pipelines_dir = sys.argv[1:]
    pipeline = dlt.pipeline(
        dataset,
        pipelines_dir=pipelines_dir,
        # Where libpq is told twice it takes the socket; dlt insists on a host.
        destination=postgres(credentials=url.replace("@/", "@localhost/")),
        dataset_name=dataset,
    )

    def load(file: str) -> None:
        resource = dlt.resource(
            rows(file) if kind == "rows" else arrow(file),
            name="scores",
            primary_key="cve_id",
            write_disposition={"disposition": "merge", "strategy": "upsert"},
            columns={name: dict(_DECIMALS) for name in _NAMES[1:]} if kind == "rows" else None,
        )
        pipeline.run(resource, loader_file_format="csv").raise_on_failed_jobs()

    take_turns(load)


if __name__ == "__main__":
    main()
