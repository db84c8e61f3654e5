"""Scores by bare psycopg: the bytes of the file go to COPY as they are, and three statements compare by anti-joins.

    raw_copy.py DATABASE_URL TABLE [GROUP]

Nothing is downloaded, checked, counted or explained: a program that compares on the server can hardly do with less.
With a group, the table is one of an ``AclModel``: the group is in force, and every row gets it.
"""

from __future__ import annotations

import gzip
import sys
from typing import Final

import psycopg
from turns import take_turns

_PIECE: Final = 1 << 18
# Joins in memory; and no loops, which the planner chooses for a table that was vacuumed while it was empty.
_SESSION: Final = """
SELECT set_config('work_mem', '32MB', true), set_config('enable_nestloop', 'off', true),
       set_config('default_statistics_target', '10', true), set_config('collectkit.acl', %s, true)
"""
_STAGE: Final = "CREATE TEMP TABLE staged ON COMMIT DROP AS SELECT cve_id, epss, percentile FROM {table} WITH NO DATA"
_DELETE: Final = "DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM staged s WHERE s.cve_id = t.cve_id)"
_UPDATE: Final = """
UPDATE {table} t SET epss = s.epss, percentile = s.percentile FROM staged s
 WHERE s.cve_id = t.cve_id AND (t.epss, t.percentile) IS DISTINCT FROM (s.epss, s.percentile)
"""
_INSERT: Final = """
INSERT INTO {table} (cve_id, epss, percentile{columns}) SELECT cve_id, epss, percentile{groups} FROM staged s
 WHERE NOT EXISTS (SELECT FROM {table} t WHERE t.cve_id = s.cve_id)
"""


def load(connection: psycopg.Connection, table: str, group: str, file: str) -> None:
    columns, groups = (", acl_read, acl_write", f", '{{{group}}}'::uuid[]" * 2) if group else ("", "")
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_SESSION, [group])
        cursor.execute(_STAGE.format(table=table))
        with gzip.open(file) as body, cursor.copy("COPY staged FROM STDIN (FORMAT csv, HEADER)") as copy:
            body.readline()
            while piece := body.read(_PIECE):
                copy.write(piece)
        cursor.execute("ANALYZE staged (cve_id)")
        for statement in (_DELETE, _UPDATE, _INSERT):
            cursor.execute(statement.format(table=table, columns=columns, groups=groups))


def main() -> None:
    url, table, group = (*sys.argv[1:], "")[:3]
    with psycopg.connect(url, autocommit=True) as connection:
        take_turns(lambda file: load(connection, table, group, file))


if __name__ == "__main__":
    main()
