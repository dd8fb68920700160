"""What the unit tests share: lists on disk, built by hand, and small Flask apps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flask import Flask

from flask_warmcache.declaration import Declaration, Item
from flask_warmcache.keeper.keeper import Keeper
from flask_warmcache.query.page_cache import PageCache
from flask_warmcache.query.pager import Pager
from flask_warmcache.rebuild.job import Job
from flask_warmcache.rebuild.outcome import Outcome
from flask_warmcache.rebuild.tools import Tools
from flask_warmcache.settings import KEY, Settings
from flask_warmcache.state import AppState
from flask_warmcache.status.condition import ListStatus
from flask_warmcache.status.progress import Progress
from flask_warmcache.store.files import FileStore
from flask_warmcache.store.locks import HeldLock
from flask_warmcache.store.snapshot import Snapshot

CHECKOUT = Path(__file__).parents[2]
NAME = "files"
RUNS = ("old", "upstream", "context", "breathe", "code_started")  # what is said of one rebuild, not of its list


def encode(value: Any) -> bytes:
    """Items as JSON, as an app's own provider would give them."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def breathe() -> None:
    """Nothing else wants the interpreter."""


def positions(snapshot: Snapshot, filter_name: str, sort_name: str) -> list[int]:
    """Which items a view has, in its order."""
    at = {snapshot.place(position): position for position in range(snapshot.count)}
    places = snapshot.view(filter_name, sort_name).tolist()
    return [at[place] for place in zip(places[::2], places[1::2], strict=True)]


def declare(name: str = NAME, **given: Any) -> Declaration:
    """A list of files, unless the test says otherwise."""
    common: dict[str, Any] = {"kind": "list", "key": "path", "unit": "file", "ttl": None}
    return Declaration(name=name, **{**common, **given})


def files(*names: str) -> list[Item]:
    """A source item for each name."""
    return [{"path": name, "size": len(name)} for name in names]


class Shelf:
    """One list in one folder, rebuilt when the test says so."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.store = FileStore(folder)
        self.folder = folder
        self.name = name
        self.reports: list[dict[str, Any]] = []

    @property
    def index(self) -> Path:
        """The file that readers look at."""
        return self.folder / f"{self.name}.index"

    @property
    def data(self) -> Path:
        """The one data file."""
        (path,) = self.folder.glob(f"{self.name}.*.data")
        return path

    @property
    def data_name(self) -> str:
        """The name of the data file that the index refers to."""
        name: str = self.snapshot().header["data"]["file"]
        return name

    def snapshot(self) -> Snapshot:
        """What is published now."""
        return Snapshot(self.folder, self.name)

    def items(self) -> list[Item]:
        """Every published item, decoded."""
        snapshot = self.snapshot()
        return [snapshot.item(snapshot.slot_at(position)) for position in range(snapshot.count)]

    def lock(self) -> HeldLock:
        """The rebuild lock, which nobody else may have."""
        lock = self.store.try_lock(self.name)
        assert lock is not None
        return lock

    def job(self, lock: HeldLock, declaration: Declaration, **given: Any) -> Job:
        """One rebuild, ready to run."""
        old = self.store.reader(self.name).current()
        tools = Tools(encode, given.get("context", nullcontext), given.get("breathe", breathe))
        progress = Progress(self.reports.append, None)
        return Job(
            declaration,
            self.store,
            lock,
            given.get("old", old),
            given.get("upstream"),
            tools,
            progress,
            given.get("code_started", 1),
        )

    def rebuild(self, source: Iterable[Item] | Callable[[], Any] = (), **given: Any) -> Outcome:
        """Rebuild from these items, or from what the function gives."""
        runs = {key: given.pop(key) for key in list(given) if key in RUNS}
        if "source_list" not in given:
            given["source"] = source if callable(source) else lambda: list(source)
        lock = self.lock()
        try:
            return self.job(lock, declare(self.name, **given), **runs).run()
        finally:
            lock.close()

    def pager(self, declaration: Declaration, **settings: Any) -> Pager:
        """What answers queries of the list."""
        status = ListStatus(declaration, self.store, 300.0, None, 1)
        chosen = Settings(**settings)
        return Pager(status, chosen, PageCache(chosen.page_cache_bytes))

    def ask(self, pager: Pager, query: str = "") -> dict[str, Any]:
        """What a request gets, parsed."""
        body = pager.body(pager.status.condition(), query.encode(), (None, None, None))
        answer: dict[str, Any] = json.loads(body.data)
        return answer


def make_app(folder: Path, **config: Any) -> Flask:
    """An app whose cache lies in the test's folder; settings in lower case, without prefix.

    After a failure it pauses for so long that no test on a slow machine sees the pause end.
    """
    app = Flask("shop", instance_path=str(folder / "instance"))
    settings = {"dir": str(folder / "cache"), "retry_min": 200.0, **config}
    app.config.update({f"WARMCACHE_{key.upper()}": value for key, value in settings.items()})
    return app


def state_of(app: Flask) -> AppState:
    """The app's lists as they are in this process, opened."""
    state: AppState = app.extensions[KEY]
    state.open()
    return state


def stop(keeper: Keeper) -> None:
    """End a keeper's thread and wait for it; a later request may start another."""
    thread = keeper._thread
    keeper.stop()
    if thread is not None:
        thread.join(20)
        assert not thread.is_alive(), "the keeper does not stop"
    keeper._rebuilder.locks.is_stopped = False
