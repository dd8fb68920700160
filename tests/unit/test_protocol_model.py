"""A model of the write protocol, and every interleaving of a rebuild with writers that may die at any step.

The model has only what matters: an item is the number of its version in the database, the index is what is
published, and a step is what is atomic in the real code: a read of the index, a look-up, a commit under the
publish lock.  All orders of all participants' steps are tried.  Without any one of the protocol's rules, the
explorer must find a broken promise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

LOOKUPS = 2  # fewer than in rebuild/writes.py
ABSENT = -1
Versions = tuple[int, ...]


@dataclass(frozen=True)
class Rules:
    """The protocol's rules; a test disables one."""

    writes_win: bool = True  # over a rebuild that began before them
    writes_are_kept: bool = True  # in the index, until a rebuild that began after them
    won_is_stale: bool = True  # until the rebuild that they won over has looked them up again
    looked_up_again: bool = True  # when another writer has written the key since
    rebuild_overwrites: bool = True  # a rebuild that has published since has the same effect
    last_lookup_wins: bool = True  # if two look-ups are published together
    base_is_checked: bool = True  # when a draft is committed
    newer_than_base_wins: bool = True  # a write that is newer than what the rebuild compares with
    invalidation_is_noted: bool = True  # before the source is read, not when the rebuild publishes
    marks_are_kept: bool = True  # when a write replaces the index
    lost_is_marked: bool = True  # a write that cannot be published leaves the list invalidated


class Index(NamedTuple):
    """What is published."""

    generation: int
    values: Versions
    writes: Versions  # each key's sequence, or 0
    rebuilt: int
    invalidation: int
    marked: bool
    complete: bool


class Part(NamedTuple):
    """One participant: its next step, and what it remembers."""

    role: str  # write, discard, change (without a refresh), invalidate or rebuild
    process: int
    keys: tuple[int, ...]
    at: str = "begin"
    version: int = 0  # the one it has written to the database
    begin: int = 0
    order: int = 0
    values: Versions = ()
    lookups: int = 0
    batch: tuple[int, ...] = ()  # the participants that it publishes for
    base: int = 0
    draft: Index | None = None
    invalidation: int = 0
    old: Versions | None = None
    won: tuple[int, ...] = ()


class World(NamedTuple):
    """The whole state at one moment."""

    db: Versions
    now: Index | None  # what is published
    invalidation: int
    parts: tuple[Part, ...]
    deleted: tuple[int, ...] = ()
    orders: int = 0
    waiting: tuple[int, ...] = ()  # participants whose change no participant has taken yet
    publishing: tuple[int, ...] = ()  # processes in which a participant publishes
    seen: Versions = ()  # the newest version of each key that a reader has seen
    promised: Versions = ()  # the version of each key when a refresh that returned True was called
    owed: Versions = ()  # the list shows this version of each key, or is stale


class Violation(Exception):
    """An invariant does not hold."""


@dataclass
class Explorer:
    """Tries all interleavings from one start, each state once."""

    rules: Rules
    crashes: bool  # whether processes may be killed, and writers run out of time
    known: dict[World, int] = field(default_factory=dict)  # in how many ways each state can end

    def explore(self, world: World) -> int:
        """Return how many interleavings there are.

        :raises Violation: when one of them breaks a promise.
        """
        if world in self.known:
            return self.known[world]
        self.check(world)
        ways = sum(map(self.explore, self.steps(world)))
        if not ways:
            self.check_end(world)
            ways = 1
        self.known[world] = ways
        return ways

    def steps(self, world: World) -> Iterator[World]:
        for number, part in enumerate(world.parts):
            if part.at in ("done", "dead"):
                continue
            yield from self.step(world, number, part)
            if self.crashes and part.at != "begin":
                yield died(world, part.process)

    def check_end(self, world: World) -> None:
        """Check an end: the list equals the database or is stale, and the next rebuild updates it."""
        dead = any(part.at == "dead" for part in world.parts)
        if not all(part.at in ("done", "dead") for part in world.parts):
            raise Violation("a participant waits for ever")
        if world.now is None:
            return
        silent = any(part.role == "change" for part in world.parts)
        if not dead and not silent and world.now.complete:
            if world.now.values != world.db and not self.is_stale(world):
                raise Violation("nothing is left to do, and the list differs from the database")
        alone = Part("rebuild", 99, tuple(range(len(world.db))))
        world = world._replace(parts=(alone,), waiting=(), publishing=())
        while world.parts[0].at != "done":
            (world, *_) = self.step(world, 0, world.parts[0])
            self.check(world)
        assert world.now is not None
        if world.now.values != world.db or self.is_stale(world):
            raise Violation("the next rebuild does not update the list")

    # Invariants

    def is_stale(self, world: World) -> bool:
        index = world.now
        if index is None or index.marked or index.invalidation != world.invalidation or not index.complete:
            return True
        # A write has won over a rebuild, and was not looked up again.
        return self.rules.won_is_stale and any(0 < sequence < index.rebuilt for sequence in index.writes)

    def check(self, world: World) -> None:
        """Check what holds at every moment.

        :raises Violation: when it does not.
        """
        index = world.now
        if index is None:
            return
        for shown, promised, owed in zip(index.values, world.promised, world.owed, strict=True):
            if shown < promised:
                raise Violation("a refresh has returned True, and an older item is shown")
            if shown < owed and not self.is_stale(world):
                raise Violation("the list owes a newer item and is not stale")

    # Steps

    def step(self, world: World, number: int, part: Part) -> Iterator[World]:
        """Yield the states that this participant's next step may lead to; none while it waits."""
        step = getattr(self, f"{part.role}_{part.at}", None) or getattr(self, part.at)
        yield from step(world, number, part)

    def begin(self, world: World, number: int, part: Part) -> Iterator[World]:
        """The app changes the database, and then calls the list."""
        (key,) = part.keys
        if key in world.deleted:
            yield put(world, number, part._replace(at="done"))
            return
        world = world._replace(db=with_value(world.db, key, world.db[key] + 1))
        if part.role == "discard":
            world = world._replace(deleted=(*world.deleted, key))
        following = {"change": "done", "invalidate": "stored"}.get(part.role, "noted")
        yield put(world, number, part._replace(at=following, version=world.db[key]))

    def noted(self, world: World, number: int, part: Part) -> Iterator[World]:
        """A refresh notes the generation, and that its look-up begins."""
        begin = 0 if world.now is None else world.now.generation
        part = part._replace(at="looked", begin=begin, order=world.orders)
        yield put(world._replace(orders=world.orders + 1), number, part)

    def looked(self, world: World, number: int, part: Part) -> Iterator[World]:
        """Look the items up; a process's only thread publishes at once, others queue their changes first."""
        values = (part.version,) if part.role == "discard" else tuple(world.db[key] for key in part.keys)
        is_alone = sum(other.process == part.process for other in world.parts) == 1
        following = {"at": "drafts", "batch": (number,)} if is_alone else {"at": "joined"}
        yield put(world, number, part._replace(values=values, lookups=part.lookups + 1, **following))

    def joined(self, world: World, number: int, part: Part) -> Iterator[World]:
        yield put(world, number, part._replace(at="waits"))._replace(waiting=(*world.waiting, number))

    def waits(self, world: World, number: int, part: Part) -> Iterator[World]:
        """Wait for a thread that publishes in this process, or publish for all that wait in it."""
        if part.process in world.publishing:
            return
        batch = tuple(member for member in world.waiting if world.parts[member].process == part.process)
        world = world._replace(
            waiting=tuple(member for member in world.waiting if member not in batch),
            publishing=(*world.publishing, part.process),
        )
        for member in batch:
            world = put(world, member, world.parts[member]._replace(at="taken"))
        yield put(world, number, world.parts[number]._replace(at="drafts", batch=batch))

    def taken(self, world: World, number: int, part: Part) -> Iterator[World]:
        """Another participant publishes its change."""
        yield from ()

    def drafts(self, world: World, number: int, part: Part) -> Iterator[World]:
        index = world.now
        if index is None:
            yield self.ended(world, number, part, ())
            return
        fitting = [member for member in part.batch if not self.is_overwritten(index, world.parts[member])]
        chosen: dict[int, tuple[int, int]] = {}
        for member in fitting:
            written = world.parts[member]
            order = written.order if self.rules.last_lookup_wins else 0
            for key, value in zip(written.keys, written.values, strict=True):
                if key not in chosen or chosen[key][0] <= order:
                    chosen[key] = (order, value)
        generation = index.generation + 1
        draft = index._replace(generation=generation)
        for key, (_, value) in chosen.items():
            sequence = generation if self.rules.writes_are_kept else 0
            draft = draft._replace(
                values=with_value(draft.values, key, value), writes=with_value(draft.writes, key, sequence)
            )
        if not chosen:
            yield self.ended(world, number, part, ())
            return
        yield put(world, number, part._replace(at="commits", base=index.generation, draft=draft))

    def is_overwritten(self, index: Index, part: Part) -> bool:
        if part.role == "discard":
            return False
        others = [index.rebuilt] if self.rules.rebuild_overwrites else []
        if self.rules.looked_up_again:
            others += [index.writes[key] for key in part.keys]
        return max(others, default=0) > part.begin

    def commits(self, world: World, number: int, part: Part) -> Iterator[World]:
        index, draft = world.now, part.draft
        assert draft is not None and index is not None
        if self.rules.base_is_checked and index.generation != part.base:
            yield put(world, number, part._replace(at="drafts"))
            if self.crashes:
                yield self.ended(world, number, part, ())  # its deadline has passed
            return
        draft = draft._replace(
            generation=max(draft.generation, index.generation + 1),
            marked=(index.marked or world.invalidation != draft.invalidation) and self.rules.marks_are_kept,
            invalidation=draft.invalidation if self.rules.marks_are_kept else world.invalidation,
        )
        fitting = tuple(member for member in part.batch if not self.is_overwritten(index, world.parts[member]))
        yield self.ended(published(world, draft), number, part, fitting)

    def ended(self, world: World, number: int, part: Part, published_for: tuple[int, ...]) -> World:
        """Give the result to every participant of the batch."""
        world = world._replace(publishing=tuple(member for member in world.publishing if member != part.process))
        for member in part.batch:
            mine = world.parts[member]
            index = world.now
            if member in published_for:
                if mine.role != "rebuild":
                    world = world._replace(promised=raised(world.promised, mine.keys, (mine.version,)))
                world = put(world, member, mine._replace(at="done"))
            elif index is not None and self.is_overwritten(index, mine) and mine.lookups < LOOKUPS:
                world = put(world, member, mine._replace(at="noted"))
            else:
                if self.rules.lost_is_marked:
                    world = marked(world)
                world = world._replace(owed=raised(world.owed, mine.keys, (mine.version,) * len(mine.keys)))
                world = put(world, member, mine._replace(at="done"))
        return forgotten(world)

    # Invalidating

    def stored(self, world: World, number: int, part: Part) -> Iterator[World]:
        yield put(world._replace(invalidation=world.invalidation + 1), number, part._replace(at="marks"))

    def marks(self, world: World, number: int, part: Part) -> Iterator[World]:
        if world.now is not None:
            world = world._replace(now=world.now._replace(marked=True))
        world = world._replace(owed=raised(world.owed, part.keys, (part.version,)))
        yield put(world, number, part._replace(at="done"))

    # Rebuilding

    def rebuild_begin(self, world: World, number: int, part: Part) -> Iterator[World]:
        """Note what the source will be compared with; later writes win."""
        index = world.now
        old = None if index is None or not index.complete else index.values
        begin = 0 if index is None else index.generation
        yield put(world, number, part._replace(at="starts", old=old, begin=begin))

    def starts(self, world: World, number: int, part: Part) -> Iterator[World]:
        part = part._replace(at="reads", invalidation=world.invalidation)
        if not self.rules.newer_than_base_wins:
            part = part._replace(begin=0 if world.now is None else world.now.generation)
        yield put(world, number, part)

    def reads(self, world: World, number: int, part: Part) -> Iterator[World]:
        """Read the source, key by key; a first build publishes a partial list in between."""
        values = (*part.values, world.db[len(part.values)])
        is_first = part.old is None and len(values) == 1 < len(world.db)
        at = "prepares" if is_first or len(values) == len(world.db) else "reads"
        yield put(world, number, part._replace(at=at, values=values))

    def prepares(self, world: World, number: int, part: Part) -> Iterator[World]:
        index = world.now
        values = part.values + (ABSENT,) * (len(world.db) - len(part.values))
        writes = (0,) * len(world.db)
        won: tuple[int, ...] = ()
        generation = 1
        complete = len(part.values) == len(world.db)
        if index is not None:
            generation = index.generation + 1
            # A partial list lacks items, so all writes before it stay.
            begin = part.begin if complete else 0
            won = tuple(key for key, sequence in enumerate(index.writes) if sequence > begin)
            if part.old is not None:  # few changes: an unchanged item is left as it is
                for key, (before, now) in enumerate(zip(part.old, index.values, strict=True)):
                    if before == ABSENT < now and key not in won:
                        raise Violation("two items with one key")
                values = tuple(
                    index.values[key] if new == before else new
                    for key, (new, before) in enumerate(zip(values, part.old, strict=True))
                )
            if self.rules.writes_win:
                values = tuple(index.values[key] if key in won else new for key, new in enumerate(values))
            writes = tuple(sequence if key in won else 0 for key, sequence in enumerate(index.writes))
        if not complete and index is not None and index.values.count(ABSENT) <= values.count(ABSENT):
            yield put(world, number, part._replace(at="reads"))  # an interrupted first build has published more
            return
        draft = Index(generation, values, writes, generation, part.invalidation, False, complete)
        base = 0 if index is None else index.generation
        yield put(world, number, part._replace(at="publishes", draft=draft, base=base, won=won))

    def publishes(self, world: World, number: int, part: Part) -> Iterator[World]:
        index, draft = world.now, part.draft
        assert draft is not None
        if self.rules.base_is_checked and (0 if index is None else index.generation) != part.base:
            yield put(world, number, part._replace(at="prepares"))
            return
        if index is not None and index.generation >= draft.generation:
            draft = draft._replace(generation=index.generation + 1, rebuilt=index.generation + 1)
        if not self.rules.invalidation_is_noted:
            draft = draft._replace(invalidation=world.invalidation)
        if not draft.complete:
            yield put(published(world, draft), number, part._replace(at="reads"))
            return
        # It may die between the rename and the mark; the invalidation in the index has the same effect.
        yield put(published(world, draft), number, part._replace(at="compares"))

    def compares(self, world: World, number: int, part: Part) -> Iterator[World]:
        index = world.now
        assert index is not None
        if world.invalidation != part.invalidation:
            world = world._replace(now=index._replace(marked=True))
        if part.won:
            again = Part("rebuild", part.process, part.won, "noted", old=part.values)
            yield put(world, number, again)
            return
        self.check_rebuilt(world, part.values)
        yield put(world, number, part._replace(at="done"))

    def check_rebuilt(self, world: World, source: Versions) -> None:
        assert world.now is not None
        if any(shown < read for shown, read in zip(world.now.values, source, strict=True)):
            if not self.is_stale(world):
                raise Violation("a rebuild has ended, and its list is older than its source")


def put(world: World, number: int, part: Part) -> World:
    """Return the world with this participant changed; what a finished one remembers does not matter."""
    if part.at == "done":
        part = Part(part.role, part.process, part.keys, "done")
    return world._replace(parts=(*world.parts[:number], part, *world.parts[number + 1 :]))


def died(world: World, process: int) -> World:
    """Kill a process with all its threads, which releases its locks."""
    parts = tuple(
        Part(part.role, part.process, part.keys, "dead") if part.process == process and part.at != "done" else part
        for part in world.parts
    )
    waiting = tuple(member for member in world.waiting if parts[member].at != "dead")
    return forgotten(world._replace(parts=parts, waiting=waiting))


def forgotten(world: World) -> World:
    """Reset what no longer matters, so that equivalent states are equal."""
    if not any(part.at in ("looked", "joined", "waits", "taken", "drafts", "commits") for part in world.parts):
        world = world._replace(orders=0)
    return world


def published(world: World, draft: Index) -> World:
    """Return the world after a rename.

    :raises Violation: when a reader sees the list go backwards.
    """
    before = world.now
    if before is not None and draft.generation <= before.generation:
        raise Violation("the generation has not risen")
    if any(new < old for new, old in zip(draft.values, world.seen, strict=True)):
        raise Violation("a reader sees an older item than before")
    return world._replace(now=draft, seen=draft.values)


def marked(world: World) -> World:
    """Return the world after ``invalidate``."""
    index = world.now
    return world._replace(invalidation=world.invalidation + 1, now=index and index._replace(marked=True))


def with_value(values: Versions, key: int, value: int) -> Versions:
    return (*values[:key], value, *values[key + 1 :])


def raised(values: Versions, keys: tuple[int, ...], to: Versions) -> Versions:
    for key, value in zip(keys, to, strict=True):
        values = with_value(values, key, max(values[key], value))
    return values


def world_of(*parts: Part, keys: int = 1, cold: bool = False, missing: bool = False) -> World:
    """Return a list that equals the database, or that was never built.

    :param missing: neither has the last key.
    """
    none, zeros = (ABSENT,) * keys, (0,) * keys
    db = with_value(zeros, keys - 1, ABSENT) if missing else zeros
    index = None if cold else Index(1, db, zeros, 1, 0, False, True)
    return World(db, index, 0, parts, seen=none if cold else db, promised=none, owed=none)


def rebuild(keys: int = 1) -> Part:
    return Part("rebuild", 0, tuple(range(keys)))


def write(process: int, key: int = 0, role: str = "write") -> Part:
    return Part(role, process, (key,))


SCENES = {
    "two processes write one key": (world_of(rebuild(), write(1), write(2)), True),
    "two threads write one key": (world_of(rebuild(), write(1), write(1)), True),
    "two keys are written": (world_of(rebuild(2), write(1, 0), write(2, 1), keys=2), True),
    "the first list is built": (world_of(rebuild(2), write(1, 0), write(2, 1), keys=2, cold=True), True),
    "its second part is written": (world_of(rebuild(2), write(1, 1), write(2, 1), keys=2, cold=True), False),
    "a new key is written": (world_of(rebuild(2), write(1, 1), write(2, 1), keys=2, missing=True), True),
    "one changes without a refresh": (world_of(rebuild(), write(1), write(2, 0, "change")), True),
    "one invalidates": (world_of(rebuild(), write(1), write(2, 0, "invalidate")), True),
    "one discards": (world_of(rebuild(), write(1), write(2, 0, "discard")), True),
    "three at once": (world_of(rebuild(), write(1), write(2, 0, "change"), write(3, 0, "invalidate")), True),
}  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
def test_every_interleaving_keeps_every_promise(scene: str) -> None:
    world, crashes = SCENES[scene]
    assert Explorer(Rules(), crashes).explore(world) > 100_000


@pytest.mark.parametrize(
    ("rule", "scene"),
    [
        ("writes_win", "two processes write one key"),
        ("writes_are_kept", "two processes write one key"),
        ("won_is_stale", "one invalidates"),
        ("looked_up_again", "two processes write one key"),
        ("rebuild_overwrites", "two processes write one key"),
        ("last_lookup_wins", "two threads write one key"),
        ("base_is_checked", "two processes write one key"),
        ("newer_than_base_wins", "a new key is written"),
        ("invalidation_is_noted", "one invalidates"),
        ("marks_are_kept", "one invalidates"),
        ("lost_is_marked", "the first list is built"),
    ],
)
def test_without_one_rule_promise_is_broken(rule: str, scene: str) -> None:
    world, crashes = SCENES[scene]
    with pytest.raises(Violation):
        Explorer(Rules(**{rule: False}), crashes).explore(world)
