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
from dataclasses import dataclass
from typing import Any

from ..declare import Declaration, Item
from ..errors import RebuildError
from ..store import format as fmt
from ..store.files import FileStore, HeldLock
from ..store.snapshot import DAMAGE, Snapshot
from ..store.writer import DataWriter, next_generation, publish_index
from .progress import Progress
from .source import Failures, Tools, read_source
from .views import ViewBuilder

log = logging.getLogger("flask_warmcache")
# A batch is what runs in one app context: long enough to share a database session, short enough not to
# keep one open for a whole rebuild.
BATCH_SECONDS = 1.0
# A data file is written anew once more than half of it is dead, but never for less than this.
COMPACT_FROM = 1 << 20


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
        self._failures = Failures(declaration.name)

    def run(self) -> Outcome:
        """Rebuild and publish.

        :raises Exception: whatever ``source`` raised, or a RebuildError; the old snapshot stays.
        """
        began = time.monotonic()
        token = self._store.invalidation(self._declaration.name)
        started = next_generation(*([self._old.generation] if self._old else []))
        self._store.sweep_leftovers(self._declaration.name)
        self._progress.begin("source")
        items = read_source(self._declaration, self._upstream, self._tools, self._progress, self._failures)
        writer = self._open_data(started)
        try:
            places = self._fill(items, writer)
            header, sections = self._index(places, writer)
            self._progress.begin("publish", places.count)
            writer.sync()
            header |= {
                "started": started,
                "code_started": self._code_started,
                "cold": False,
                "is_value": self._declaration.kind == "value",
                "duration": round(time.monotonic() - began, 3),
                "upstream": self._upstream.generation if self._upstream else None,
                "invalidation": token,
                "writes": [],  # the place of the write protocol's entries, which no rebuild makes
            }
            generation = self._publish(header, sections, writer, token)
        except BaseException:
            # No map reaches behind the published length, and only the lock's holder appends. What went wrong
            # may have done so after the rename, though.
            if self._lock.still_ours() and self._store.is_unpublished(
                self._declaration.name, writer.data_id, writer.began
            ):
                writer.take_back()
            raise
        finally:
            writer.close()
        keyed = self._declaration.key is not None
        old_count = self._old.count if self._old and keyed else places.kept
        return Outcome(
            generation=generation,
            count=places.count,
            reused=places.reused,
            enriched=places.enriched,
            failed=self._failures.count,
            dropped=old_count - places.kept,
            duration=time.monotonic() - began,
        )

    # Step 3

    def _open_data(self, started: int) -> DataWriter:
        """The published data file to go on in, or a new one where there is none or it is mostly dead."""
        old = self._old
        if old is not None:
            try:
                writer = DataWriter.extend(self._store.folder, old)
            except FileNotFoundError:
                pass  # the folder was emptied under us; what is mapped can still be copied
            else:
                # By the file's own size: failed rebuilds have left lines that no index knows of.
                if writer.end < 2 * old.header["live_bytes"] + COMPACT_FROM:
                    return writer
                writer.close()
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
                while True:
                    # Nothing refers to the item from here on, so its memory is free for the next.
                    item, items[done] = items[done], {}
                    self._place(item, writer, places, in_place)
                    done += 1
                    self._progress.advance(done)
                    self._tools.breathe()
                    if done == len(items) or time.monotonic() >= batch_end:
                        break
        if items and not places.count:
            raise RebuildError(f"every one of the {len(items)} items of {self._declaration.name!r} failed")
        writer.flush()
        return places

    def _place(self, item: Item, writer: DataWriter, places: _Places, in_place: bool) -> None:
        declaration = self._declaration
        key = item.get(declaration.key) if declaration.key is not None else None
        old = self._old_version(key)
        enriched: tuple[bytes, bytes] | None = None
        try:
            fingerprint = fmt.fingerprint_of(declaration.version, self._tools.encode(self._identity(item)))
            if old is None or old.fingerprint != fingerprint:
                enriched = fingerprint, self._enrich(item, key)
        except Exception as error:
            self._failures.note(f"the item {key!r}", error)
            if old is None:
                return
            # Its old version stays, with its old fingerprint, so the next rebuild tries it again.
        else:
            places.reused += enriched is None
        places.kept += old is not None
        if enriched is not None:
            places.enriched += 1
            places.add(writer.add(*enriched), json.loads(enriched[1]), key)
        elif old is not None:
            place = old.place if in_place else writer.add(old.fingerprint, old.encoded)
            places.add(place, old.item if places.views.needs_items else None, key)

    def _old_version(self, key: object) -> _OldVersion | None:
        """What the old snapshot has under the key; a damaged line is not reused."""
        old, field = self._old, self._declaration.key
        if old is None or field is None:
            return None
        try:
            position = old.find(key, field)
            return None if position is None else _OldVersion(old, position)
        except DAMAGE:
            return None

    def _enrich(self, item: Item, key: object) -> bytes:
        declaration = self._declaration
        enriched = item if declaration.enrich is None else declaration.enrich(item)
        if not isinstance(enriched, dict):
            raise RebuildError(f"enrich returned {type(enriched).__name__} for {key!r}; return the completed dict")
        if declaration.key is not None and enriched.get(declaration.key) != key:
            raise RebuildError(
                f"enrich changed the key field {declaration.key!r} of {key!r}; leave it as source gave it"
            )
        return self._tools.encode(enriched)

    def _identity(self, item: Item) -> object:
        """What, unchanged, means that the enriched item is still good."""
        fingerprint = self._declaration.fingerprint
        if fingerprint is None:
            return item
        if callable(fingerprint):
            return fingerprint(item)
        return [item[field] for field in fingerprint]

    # Steps 4 and 5

    def _index(self, places: _Places, writer: DataWriter) -> tuple[dict[str, Any], dict[str, Any]]:
        declaration = self._declaration
        self._progress.begin("views", places.count)
        place_type = fmt.place_type(writer.end)
        packed = array(place_type, places.places)
        sections: dict[str, Any] = {"places": packed}
        if declaration.key is not None:
            order = sorted(range(len(places.hashes)), key=places.hashes.__getitem__)
            self._tools.breathe()
            sections["key_hashes"] = array("Q", [places.hashes[position] for position in order])
            sections["key_positions"] = array("I", order)
        sections |= places.views.sections(packed)
        for what, times in places.views.errors.items():
            log.warning(
                "warmcache.view_failed: %s on %d items of %r",
                what,
                times,
                declaration.name,
                extra={"warmcache_list": declaration.name},
            )
        return {
            "declaration": declaration.digest,
            "complete": True,
            "count": places.count,
            "place_type": place_type,
            "filters": places.views.filter_counts(),
            "live_bytes": sum(packed[1::2]) - sum(packed[::2]) + (fmt.FINGERPRINT_LENGTH + 1) * places.count,
            "reused": places.reused,
            "enriched": places.enriched,
            "failed_items": self._failures.count,
            "view_errors": places.views.errors.total(),
        }, sections

    def _publish(self, header: dict[str, Any], sections: dict[str, Any], writer: DataWriter, token: str) -> int:
        name, store = self._declaration.name, self._store
        with store.publishing(name):
            if not self._lock.still_ours():
                raise RebuildError("the lock file was removed during the rebuild, so another may be running")
            writer.check_in_place()
            generation = next_generation(header["started"], *store.published_generation(name))
            header |= {
                "generation": generation,
                "published_at": time.time(),
                "data": {
                    "file": writer.path.name,
                    "id": writer.data_id,
                    "length": writer.end,
                    "checksum": writer.checksum,
                },
            }
            publish_index(store.folder, name, header, sections)
            try:
                store.mark_if_invalidated(name, token)
                store.sweep(name, keep=writer.path.name)
            except OSError:
                # It is published.  The keeper compares the token, and the next rebuild sweeps again.
                log.warning("warmcache.not_tidied: behind the publication of %r", name, exc_info=True)
        return generation


class _Places:
    """Where the items of the snapshot in the making lie, in source order."""

    def __init__(self, declaration: Declaration, views: ViewBuilder) -> None:
        self.places = array("Q")  # two numbers for each item
        self.count = 0
        self.hashes = array("Q")
        self.views = views
        self.enriched = 0
        self.reused = 0
        self.kept = 0  # items that the old snapshot had, too
        self._has_key = declaration.key is not None

    def add(self, place: tuple[int, int], item: Any, key: object) -> None:
        self.places.extend(place)
        self.count += 1
        if self._has_key:
            self.hashes.append(fmt.key_hash(key))
        self.views.add(item)


class _OldVersion:
    """An item as the old snapshot has it."""

    def __init__(self, snapshot: Snapshot, position: int) -> None:
        line = snapshot.line(position)
        self.fingerprint = line[: fmt.FINGERPRINT_LENGTH]
        self.encoded = line[fmt.FINGERPRINT_LENGTH + 1 : -1]
        self.place = snapshot.place(position)

    @property
    def item(self) -> Any:
        return json.loads(self.encoded)
