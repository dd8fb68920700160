"""Lists that are made of another: they follow its writes, and look their items up in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import events
from ..declaration import Declaration, Item
from ..index.exact import restore, unpacked
from ..status.condition import ListStatus
from ..store.files import FileStore
from ..store.snapshot import Snapshot
from .tools import Tools
from .writes import Writes


def item_finder(newest: Callable[[], Snapshot | None], field: str) -> Callable[[Any], Item | None]:
    """Return the lookup of a list that is made of another: it finds items in the other list's newest snapshot."""

    def find(key: Any) -> Item | None:
        snapshot = newest()
        slot = None if snapshot is None or snapshot.is_cold else snapshot.find(key, field)
        if snapshot is None or slot is None:
            return None
        item: Item = restore(snapshot.item(slot), unpacked(snapshot.exact))
        return item

    return find


def all_writes(statuses: Mapping[str, ListStatus], store: FileStore, tools: Tools) -> dict[str, Writes]:
    """Return what publishes the writes of each list that has keys, by its name."""

    def upstream_of(declaration: Declaration) -> ListStatus | None:
        """Return the source list if it has the same key field; otherwise its keys mean nothing here."""
        upstream = statuses.get(declaration.source_list or "")
        return upstream if upstream is not None and upstream.declaration.key == declaration.key else None

    writes: dict[str, Writes] = {}
    for name, status in statuses.items():
        declaration = status.declaration
        if declaration.key is None:
            continue
        lookup, upstream = declaration.lookup, upstream_of(declaration)
        if lookup is None and upstream is not None:
            lookup = item_finder(upstream.reader.current, declaration.key)
        writes[name] = Writes(declaration, store, tools, lookup)
    for name in writes:
        upstream = upstream_of(statuses[name].declaration)
        if upstream is not None:
            writes[upstream.name].followers.append(writes[name])
    return writes


def refresh_overwritten(
    declaration: Declaration, store: FileStore, tools: Tools, upstream: Snapshot | None, keys: Sequence[str | int]
) -> None:
    """Look up the keys whose writes won over a rebuild that has just published.

    They won because the rebuild's source may have been older.  It has been read by now, so the items are looked
    up again; without a lookup, the list is invalidated.

    :param upstream: the snapshot of the source list that the rebuild was made of.
    """
    name, lookup, source_list = declaration.name, declaration.lookup, declaration.source_list
    field = declaration.key or ""
    if not keys:
        return
    if lookup is None and source_list is not None and upstream is not None and upstream.header.get("key") == field:
        # The newest snapshot, because the writes may be newer than the one that this rebuild was made of.
        lookup = item_finder(lambda: store.published(source_list), field)
    try:
        if lookup is None:
            store.invalidate(name)
        else:
            with tools.context():
                Writes(declaration, store, tools, lookup).refresh(keys)
    except Exception:
        # The rebuild is published all the same, and the writes stay in the index.
        events.error(
            "warmcache.not_written_again", "writes of %(list)r stay until the next rebuild", True, list=name
        )
