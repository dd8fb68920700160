"""Store which comics people have marked as processed or as duplicates."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_TABLE = """
create table if not exists markers (
    relative_path text primary key,
    processed integer not null default 0,
    duplicate integer not null default 0,
    web_modified integer not null default 0
) without rowid
"""
_SET = """
insert into markers values (?1, coalesce(?2, 0), coalesce(?3, 0), ?4)
on conflict (relative_path) do update set
    processed = coalesce(?2, processed),
    duplicate = coalesce(?3, duplicate),
    web_modified = max(web_modified, ?4)
"""


class Markers(NamedTuple):
    """The markers of one comic."""

    processed: bool = False
    duplicate: bool = False
    web_modified: bool = False


class Counts(NamedTuple):
    """The number of comics with each marker."""

    processed: int
    duplicate: int
    web_modified: int


class MarkerStore:
    """The markers by relative path, in an SQLite file that several processes may use at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connect() as connection:
            # Workers that start together may all try this. The file keeps the mode, so one success is enough.
            with suppress(sqlite3.OperationalError):
                connection.execute("pragma journal_mode = wal")
            connection.execute(_TABLE)

    def all(self) -> dict[str, Markers]:
        """Return the markers of every comic that was ever marked."""
        with self._connect() as connection:
            rows = connection.execute("select relative_path, processed, duplicate, web_modified from markers")
            return {path: Markers(*map(bool, flags)) for path, *flags in rows}

    def one(self, path: str) -> Markers:
        """Return the markers of one comic."""
        with self._connect() as connection:
            select = "select processed, duplicate, web_modified from markers where relative_path = ?"
            row = connection.execute(select, (path,)).fetchone()
            return Markers() if row is None else Markers(*map(bool, row))

    def counts(self) -> Counts:
        """Return the number of comics with each marker."""
        with self._connect() as connection:
            row = connection.execute("select total(processed), total(duplicate), total(web_modified) from markers")
            return Counts(*map(int, row.fetchone()))

    def set_markers(
        self,
        paths: Iterable[str],
        *,
        processed: bool | None = None,
        duplicate: bool | None = None,
        by_web: bool = True,
    ) -> dict[str, Markers]:
        """Change the given markers of all these comics atomically, and return all their markers."""
        paths = list(paths)
        with self._connect() as connection:
            connection.execute("begin immediate")
            connection.executemany(_SET, [(path, processed, duplicate, by_web) for path in paths])
            select = "select processed, duplicate, web_modified from markers where relative_path = ?"
            rows = {path: connection.execute(select, (path,)).fetchone() for path in paths}
            connection.execute("commit")
        return {path: Markers(*map(bool, row)) for path, row in rows.items()}

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        # Each operation opens a connection, because one belongs to a single thread and must not cross a fork.
        with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as connection:
            yield connection
