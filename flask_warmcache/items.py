"""A list's items, as a view reads them: a sequence that decodes what is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from .declare import Item
from .rebuild.status import Condition
from .store.snapshot import Snapshot


class Items(Sequence[Item]):
    """A list's items as one snapshot has them: read-only, decoded one by one when touched."""

    def __init__(self, condition: Condition) -> None:
        self._snapshot: Snapshot | None = condition.snapshot
        self.generation = None if condition.snapshot is None else condition.snapshot.token
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
        places = range(len(self))[index]  # raises IndexError as a list would
        if self._snapshot is None:
            return []
        if isinstance(places, range):
            return [self._snapshot.item(position) for position in places]
        item: Item = self._snapshot.item(places)
        return item

    def __iter__(self) -> Iterator[Item]:
        for position in range(len(self)):
            yield self[position]

    def __repr__(self) -> str:
        return f"<Items {len(self)}, {self.state}>"
