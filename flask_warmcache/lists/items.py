"""A list's items, as a view reads them: a sequence that decodes an item when it is accessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from ..declaration import Item
from ..errors import SnapshotError
from ..status.condition import Condition
from ..store.snapshot import DAMAGE, Snapshot


class Items(Sequence[Item]):
    """The items of one snapshot of a list: a read-only sequence that decodes each item when it is accessed."""

    def __init__(self, condition: Condition, note_damage: Callable[[Snapshot], None]) -> None:
        self._note_damage = note_damage
        self._snapshot: Snapshot | None = condition.snapshot
        self.generation = None if condition.snapshot is None else condition.snapshot.shown_generation
        self.age = condition.age
        self.state = condition.state
        self.complete = condition.snapshot is not None and condition.snapshot.complete
        self.rebuilding = condition.rebuilding

    def __len__(self) -> int:
        return 0 if self._snapshot is None else self._snapshot.count

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        positions = range(len(self))[index]  # raises IndexError as a list does
        if isinstance(positions, range):
            return [self._item(position) for position in positions]
        return self._item(positions)

    def _item(self, position: int) -> Item:
        assert self._snapshot is not None  # an empty sequence has no positions
        try:
            item: Item = self._snapshot.item(self._snapshot.slot_at(position))
            return item
        except DAMAGE as error:
            # Not IndexError, which would end a loop as if the list were complete.
            self._note_damage(self._snapshot)
            raise SnapshotError("an item's line is damaged; the list is rebuilt") from error

    def __iter__(self) -> Iterator[Item]:
        for position in range(len(self)):
            yield self[position]

    def __repr__(self) -> str:
        return f"<Items {len(self)}, {self.state}>"
