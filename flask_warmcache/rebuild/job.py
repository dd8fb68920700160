"""One rebuild, from source to publish.

How a list stays warm
---------------------
A request never builds.  It reads the newest snapshot and, when that is cold or stale, leaves a wish.
The keeper (keeper.py), a thread in every worker, hears wishes and watches ages; when a list is due, it
tries the list's lock without waiting.  The process that gets it runs one ``Job``; the others go on serving
what they have and see the new snapshot at their next read, because a read begins with one ``stat``.

A job works in five steps, and only the last one changes what readers see:

1. It notes the invalidation token and the start, *before* it calls ``source``: what is changed after that
   may or may not be in this rebuild, and whoever says so in the meantime gets another one.
2. ``source`` says which items exist.  If it fails, the old snapshot stays.
3. An item whose fingerprint is that of its published version keeps that version's bytes, where they lie.
   The others are enriched and appended to the data file.  No index points at appended lines yet.
4. Filters, orders, key look-up and search text are computed into arrays.
5. The data is synced, then the index replaces the old one under the publish lock.

Killed anywhere before the rename in step 5, it leaves the old snapshot whole; killed after it, the new one.
"""

from __future__ import annotations

import json
import logging
import time
from array import array
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ..declare import Declaration, Item
from ..errors import RebuildError, SnapshotError
from ..store import format as fmt
from ..store.files import FileStore, HeldLock
from ..store.snapshot import Snapshot
from ..store.writer import DataWriter, next_generation, publish_index
from .progress import Progress
from .views import ViewBuilder

log = logging.getLogger("flask_warmcache")
# A batch is what runs in one app context: long enough to share a database session, short enough not to
# keep one open for a whole rebuild.
BATCH_SECONDS = 1.0
# Each failed item is counted; only the first few are logged with their traceback.
LOGGED_FAILURES = 5
# A data file is written anew once more than half of it is dead, but never for less than this.
COMPACT_FROM = 1 << 20


@dataclass(frozen=True)
class Tools:
    """What a job needs of the app, so that nothing in here must know Flask."""

    encode: Callable[[Any], bytes]  # an item as JSON, without a raw newline or tab
    context: Callable[[], AbstractContextManager[Any]]  # an app context
    breathe: Callable[[], None]  # lets requests have the interpreter; called between small steps


@dataclass(frozen=True)
class Outcome:
    """What one rebuild did."""

    generation: int
    count: int
    reused: int
    enriched: int
    failed: int
    dropped: int  # items of the old snapshot that source no longer gave
    duration: float


class Job:
    """Rebuilds one list once; the caller holds the list's lock, whichever process or thread that is."""

    def __init__(
        self,
        declaration: Declaration,
        store: FileStore,
        lock: HeldLock,
        old: Snapshot | None,
        upstream: Snapshot | None,
        tools: Tools,
        progress: Progress,
        code_started: int,
    ) -> None:
        """
        :param old: the snapshot to reuse items of and to replace, if there is one.
        :param upstream: for a list whose source is another list, that list's snapshot.
        :param code_started: when the server that runs this code started, in nanoseconds; written into the
            index, so that older code still running does not replace what newer code made.
        """
        self._declaration = declaration
        self._store = store
        self._lock = lock
        self._old = old
        self._upstream = upstream
        self._tools = tools
        self._progress = progress
        self._code_started = code_started
        self._failed = 0
        self._enriched = 0

    def run(self) -> Outcome:
        """Rebuild and publish.

        :raises Exception: whatever ``source`` raised, or a RebuildError; the old snapshot stays.
        """
        began = time.monotonic()
        token = self._store.invalidation(self._declaration.name)
        started = next_generation(*([self._old.generation] if self._old else []))
        self._progress.begin("source")
        items = self._read_source()
        writer = self._open_data(started)
        try:
            places = self._fill(items, writer)
            header, sections = self._index(places, writer)
            self._progress.begin("publish", len(places.starts))
            writer.sync()
            header |= {
                "started": started,
                "code_started": self._code_started,
                "cold": False,
                "duration": round(time.monotonic() - began, 3),
                "invalidation": token,
                "upstream": self._upstream.generation if self._upstream else None,
                "writes": [],  # the place of the write protocol's entries, which no rebuild makes
            }
            generation = self._publish(header, sections, writer)
        except BaseException:
            writer.close()
            if writer.is_new:
                writer.path.unlink(missing_ok=True)
            raise
        writer.close()
        old_count = self._old.count if self._old else 0
        return Outcome(
            generation=generation,
            count=len(places.starts),
            reused=places.reused,
            enriched=self._enriched,
            failed=self._failed,
            dropped=old_count - places.kept,
            duration=time.monotonic() - began,
        )

    # Step 2

    def _read_source(self) -> list[Item]:
        """Every source item, in order, the first of each key."""
        declaration = self._declaration
        with self._tools.context():
            produced = self._call_source()
            if declaration.kind == "value":
                return [{"value": produced}]
            items: list[Item] = []
            seen: set[object] = set()
            for item in produced:
                self._tools.breathe()
                if not isinstance(item, dict):
                    raise RebuildError(
                        f"source of {declaration.name!r} gave a {type(item).__name__}; items are dicts"
                    )
                if declaration.key is not None and not self._is_new_key(item, seen):
                    continue
                items.append(item)
                self._progress.advance(len(items))
        return items

    def _call_source(self) -> Any:
        if self._upstream is not None:
            upstream = self._upstream
            return (upstream.item(position) for position in range(upstream.count))
        source = self._declaration.source
        assert source is not None  # the keeper does not start a list whose declaration has a problem
        produced = source()
        if self._declaration.kind != "value" and (
            isinstance(produced, (str, bytes, dict)) or not isinstance(produced, Iterable)
        ):
            raise RebuildError(
                f"source of {self._declaration.name!r} gave a {type(produced).__name__}, not a list of items"
            )
        return produced

    def _is_new_key(self, item: Item, seen: set[object]) -> bool:
        field = self._declaration.key
        try:
            key = item[field]  # type: ignore[index]
            fmt.key_hash(key)
        except (KeyError, TypeError) as error:
            self._note_failure(f"an item whose key field {field!r} is missing or unfit", error)
            return False
        # 1 and 1.0 and True are one key in a set, but only whole numbers and text get here.
        if key in seen:
            self._note_failure(f"a second item with the key {key!r}", None)
            return False
        seen.add(key)
        return True

    # Step 3

    def _open_data(self, started: int) -> DataWriter:
        """The published data file to go on in, or a new one where there is none or it is mostly dead."""
        old = self._old
        if old is not None:
            live, whole = old.header["live_bytes"], old.header["data"]["length"]
            if whole < 2 * live + COMPACT_FROM:
                try:
                    return DataWriter.extend(self._store.folder, old)
                except FileNotFoundError:
                    pass  # the folder was emptied under us; what is mapped can still be copied
        return DataWriter.create(self._store.folder, self._declaration.name, started)

    def _fill(self, items: list[Item], writer: DataWriter) -> _Places:
        """Give every item its bytes: those it had, or newly enriched ones."""
        self._progress.begin("enrich", len(items))
        places = _Places(self._declaration, ViewBuilder(self._declaration, self._tools.breathe))
        in_place = self._old is not None and self._old.header["data"]["id"] == writer.data_id
        done = 0
        while done < len(items):
            batch_end = time.monotonic() + BATCH_SECONDS
            with self._tools.context():
                while done < len(items) and time.monotonic() < batch_end:
                    # Nothing refers to the item from here on, so its memory is free for the next.
                    item, items[done] = items[done], {}
                    self._place(item, writer, places, in_place)
                    done += 1
                    self._progress.advance(done)
                    self._tools.breathe()
        if items and not places.starts:
            raise RebuildError(f"every one of the {len(items)} items of {self._declaration.name!r} failed")
        writer.flush()
        return places

    def _place(self, item: Item, writer: DataWriter, places: _Places, in_place: bool) -> None:
        declaration, old = self._declaration, self._old
        key = item.get(declaration.key) if declaration.key is not None else None
        position = None
        if old is not None and declaration.key is not None:
            try:
                position = old.find(key, declaration.key)
            except (SnapshotError, ValueError, AttributeError):
                old = None  # a damaged line is not reused
        try:
            fingerprint = fmt.fingerprint_of(declaration.version, self._tools.encode(self._identity(item)))
            if old is None or position is None or old.fingerprint(position) != fingerprint:
                enriched = item if declaration.enrich is None else declaration.enrich(item)
                if declaration.key is not None:
                    _check_enriched(enriched, key, declaration.key)
                encoded = self._tools.encode(enriched)
                places.add(writer.add(fingerprint, encoded), json.loads(encoded), key)
                self._enriched += 1
                places.kept += position is not None
                return
        except Exception as error:
            self._note_failure(f"the item {key!r}", error)
            if old is None or position is None:
                return
            # Its old version stays, with its old fingerprint, so the next rebuild tries it again.
        else:
            places.reused += 1
        places.kept += 1
        line = old.line(position)
        json_bytes = line[fmt.FINGERPRINT_LENGTH + 1 : -1]
        place = (
            old.place(position) if in_place else writer.add(line[: fmt.FINGERPRINT_LENGTH], json_bytes)
        )
        places.add(place, json.loads(json_bytes) if places.views.needs_items else None, key)

    def _identity(self, item: Item) -> object:
        """What, unchanged, means that the enriched item is still good."""
        fingerprint = self._declaration.fingerprint
        if fingerprint is None:
            return item
        if callable(fingerprint):
            return fingerprint(item)
        return [item[field] for field in fingerprint]

    def _note_failure(self, what: str, error: BaseException | None) -> None:
        self._failed += 1
        if self._failed <= LOGGED_FAILURES:
            log.warning(
                "warmcache.item_failed: %s of %r was left as it was or left out", what, self._declaration.name,
                exc_info=error, extra={"warmcache_list": self._declaration.name},
            )

    # Steps 4 and 5

    def _index(self, places: _Places, writer: DataWriter) -> tuple[dict[str, Any], dict[str, Any]]:
        declaration = self._declaration
        self._progress.begin("views", len(places.starts))
        sections: dict[str, Any] = {"starts": places.starts, "lengths": places.lengths}
        if declaration.key is not None:
            order = sorted(range(len(places.hashes)), key=places.hashes.__getitem__)
            self._tools.breathe()
            sections["key_hashes"] = array("Q", [places.hashes[position] for position in order])
            sections["key_positions"] = array("I", order)
        sections |= places.views.sections()
        for what, times in places.views.errors.items():
            log.warning(
                "warmcache.view_failed: %s on %d items of %r", what, times, declaration.name,
                extra={"warmcache_list": declaration.name},
            )
        return {
            "declaration": declaration.digest,
            "complete": True,
            "count": len(places.starts),
            "filters": places.views.filter_counts(),
            "live_bytes": sum(places.lengths) + fmt.FINGERPRINT_LENGTH * len(places.lengths),
            "reused": places.reused,
            "enriched": self._enriched,
            "failed_items": self._failed,
            "view_errors": places.views.errors.total(),
        }, sections

    def _publish(self, header: dict[str, Any], sections: dict[str, Any], writer: DataWriter) -> int:
        name, store = self._declaration.name, self._store
        with store.publishing(name):
            if not self._lock.still_ours():
                raise RebuildError("the lock file was removed during the rebuild, so another may be running")
            writer.check_in_place()
            generation = next_generation(header["started"], *store.published_generation(name))
            header |= {
                "generation": generation,
                "data": {"file": writer.path.name, "id": writer.data_id, "length": writer.end},
            }
            publish_index(store.folder, name, header, sections)
            store.sweep(name, keep=writer.path.name)
        return generation


class _Places:
    """Where the items of the snapshot in the making lie, in source order."""

    def __init__(self, declaration: Declaration, views: ViewBuilder) -> None:
        self.starts = array("Q")
        self.lengths = array("I")
        self.hashes = array("Q")
        self.views = views
        self.reused = 0
        self.kept = 0  # items that the old snapshot had, too
        self._has_key = declaration.key is not None

    def add(self, place: tuple[int, int], item: Any, key: object) -> None:
        self.starts.append(place[0])
        self.lengths.append(place[1])
        if self._has_key:
            self.hashes.append(fmt.key_hash(key))
        self.views.add(item)


def _check_enriched(enriched: object, key: object, field: str) -> None:
    if not isinstance(enriched, dict):
        raise RebuildError(f"enrich returned {type(enriched).__name__} for {key!r}; return the completed dict")
    if enriched.get(field) != key:
        raise RebuildError(f"enrich changed the key field {field!r} of {key!r}; leave it as source gave it")
