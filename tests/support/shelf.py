"""How does a test keep one list on disk without Flask? It is rebuilt when the test says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flask_warmcache.declaration import Declaration, Item
from flask_warmcache.query.page_cache import PageCache
from flask_warmcache.query.pager import Pager
from flask_warmcache.rebuild.job import Job
from flask_warmcache.rebuild.tools import Outcome, Tools
from flask_warmcache.settings import Settings
from flask_warmcache.status.condition import ListStatus
from flask_warmcache.status.progress import Progress
from flask_warmcache.store.files import FileStore
from flask_warmcache.store.locks import HeldLock
from flask_warmcache.store.snapshot import Snapshot

NAME = "files"
RUNS = ("old", "upstream", "context", "breathe", "first_page", "code_started", "enrich_all")  # of one rebuild


def encode(value: Any) -> bytes:
    """Encode a value as JSON, as an app's provider does."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def breathe() -> None:
    """Yield to no other thread, because none needs the interpreter."""


def positions(snapshot: Snapshot, filter_name: str, sort_name: str) -> list[int]:
    """Return the positions of a view's items, in its order."""
    at = {snapshot.place(position): position for position in range(snapshot.count)}
    places = snapshot.view(filter_name, sort_name).tolist()
    return [at[place] for place in zip(places[::2], places[1::2], strict=True)]


def declare(name: str = NAME, **options: Any) -> Declaration:
    """Declare a list of files, unless the options replace these values."""
    return Declaration(name=name, **{"kind": "list", "key": "path", "unit": "file", "ttl": None, **options})


def files(*names: str) -> list[Item]:
    """Return a source item for each name."""
    return [{"path": name, "size": len(name)} for name in names]


class Shelf:
    """One list in one folder, which only the test rebuilds."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.store = FileStore(folder)
        self.folder = folder
        self.name = name
        self.reports: list[dict[str, Any]] = []

    @property
    def index(self) -> Path:
        """The index file."""
        return self.folder / f"{self.name}.index"

    @property
    def data(self) -> Path:
        """The only data file."""
        (path,) = self.folder.glob(f"{self.name}.*.data")
        return path

    @property
    def data_name(self) -> str:
        """The name of the data file that the index refers to."""
        name: str = self.snapshot().header["data"]["file"]
        return name

    def snapshot(self) -> Snapshot:
        """Return the published snapshot."""
        return Snapshot(self.folder, self.name)

    def items(self) -> list[Item]:
        """Return every published item, decoded."""
        snapshot = self.snapshot()
        return [snapshot.item(snapshot.slot_at(position)) for position in range(snapshot.count)]

    def lock(self) -> HeldLock:
        """Acquire the rebuild lock, which must be free."""
        lock = self.store.try_lock(self.name)
        assert lock is not None
        return lock

    def job(self, lock: HeldLock, declaration: Declaration, **options: Any) -> Job:
        """Return a rebuild that is ready to run."""
        old = self.store.reader(self.name).current()
        tools = Tools(
            encode,
            options.get("context", nullcontext),
            options.get("breathe", breathe),
            options.get("first_page", Tools.first_page),
        )
        progress = Progress(self.reports.append, None)
        return Job(
            declaration,
            self.store,
            lock,
            options.get("old", old),
            options.get("upstream"),
            tools,
            progress,
            options.get("code_started", 1),
            options.get("enrich_all", False),
        )

    def rebuild(self, source: Iterable[Item] | Callable[[], Any] = (), **options: Any) -> Outcome:
        """Rebuild from these items, or from those that the function returns."""
        runs = {key: options.pop(key) for key in list(options) if key in RUNS}
        if "source_list" not in options:
            options["source"] = source if callable(source) else lambda: list(source)
        lock = self.lock()
        try:
            return self.job(lock, declare(self.name, **options), **runs).run()
        finally:
            lock.close()

    def pager(self, declaration: Declaration, **settings: Any) -> Pager:
        """Return a pager that answers queries of the list."""
        status = ListStatus(declaration, self.store, 300.0, None, 1)
        chosen = Settings(**settings)
        return Pager(status, chosen, PageCache(chosen.page_cache_bytes))

    def ask(self, pager: Pager, query: str = "") -> dict[str, Any]:
        """Answer a query, and parse the answer."""
        body = pager.body(pager.status.condition(), query.encode(), (None, None, None))
        answer: dict[str, Any] = json.loads(body.data)
        return answer
