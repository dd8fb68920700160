"""A rebuild killed before each of its system calls, and failed at each of them.

A first run under strace tells which calls on the cache folder a rebuild makes. Then every fifth of them, or with
``--long`` each, is hit in a run of its own, in a folder that is as it was. After each fault, the old or the new
list is published, whole, and the next build leaves nothing that nobody needs.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.launcher import Done, Launcher
from tests.support.needs import need_program
from tests.support.waiting import until

from .cache_files import DRAFT, YOUNG, litter, published

CALL = re.compile(r"(\d+) +(\w+)\((.*)")
RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>")
# The same in every run: what is traced is slower, and a rebuild hands over its lines by time.
TRACE = ("-e", "trace=file,desc,mmap,flock")
# Which error which call can give; EINTR where the interpreter, or we, must try again.
MAKING = ["ENOSPC", "EDQUOT", "EROFS"]
ERRORS = {
    "openat": ["EIO", "EINTR", "EMFILE", "EACCES"],
    "write": ["ENOSPC", "EIO", "EDQUOT", "EINTR"],
    "writev": ["ENOSPC", "EIO", "EDQUOT", "EINTR"],
    "pwrite64": ["ENOSPC", "EIO", "EDQUOT", "EINTR"],
    "read": ["EIO", "EINTR"],
    "pread64": ["EIO", "EINTR"],
    "fsync": ["ENOSPC", "EIO", "EDQUOT", "EINTR"],
    "fdatasync": ["ENOSPC", "EIO", "EDQUOT", "EINTR"],
    "close": ["EIO"],
    "rename": ["EIO", "EBUSY", "EACCES", *MAKING],
    "renameat": ["EIO", "EBUSY", "EACCES", *MAKING],
    "unlink": ["EIO", "EBUSY", "EACCES", "EROFS"],
    "mkdir": ["EIO", "EACCES", *MAKING],
    "utimensat": ["EIO", "EACCES", "EROFS"],
    "ftruncate": ["EIO", "EINTR", "EROFS"],
    "newfstatat": ["EIO", "EACCES"],
    "access": ["EIO", "EACCES", "EROFS"],
    "getdents64": ["EIO"],
    "flock": ["EINTR", "EIO"],
    "mmap": ["EACCES"],
}
STRIDE = 5
LEAST_KILLS = {"first": 60, "replacement": 80}
LEAST_ERRORS = {"first": 250, "replacement": 300}
SOME_OR_ALL = pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "all"]
)
KINDS = {"ENOSPC", "EIO", "EDQUOT", "EINTR", "EMFILE", "EROFS", "EACCES", "EBUSY"}


@dataclass(frozen=True)
class Point:
    """One system call of a rebuild: the nth of its name in its thread."""

    call: str
    nth: int
    makes: bool  # opens a file to write it
    locks: bool  # on a lock file

    @property
    def errors(self) -> list[str]:
        if self.call == "close" and self.locks:
            return []  # a call that is failed is not made: the lock would stay held, which no error does
        return ERRORS.get(self.call, []) + (MAKING if self.call == "openat" and self.makes else [])

    def some_errors(self, chance: random.Random) -> list[str]:
        """One by chance, and what few calls can give."""
        return sorted({*chance.sample(self.errors, min(1, len(self.errors))), *({"EBUSY"} & set(self.errors))})


def points_of(trace: str, folder: Path) -> list[Point]:
    """The calls of the thread that calls most, on the cache folder; the first ones, the look around, too."""
    of_thread: dict[str, list[Point]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for line in trace.splitlines():
        found = CALL.match(line)
        if found is None:
            continue
        thread, call, rest = found.groups()
        counts[thread, call] += 1
        if str(folder) in rest:
            makes = "O_RDWR" in rest or "O_WRONLY" in rest or "O_ACCMODE" in rest
            of_thread.setdefault(thread, []).append(Point(call, counts[thread, call], makes, ".lock>" in rest))
    return max(of_thread.values(), key=len)


def was_hit(done: Done, folder: Path) -> bool:
    """Whether the fault came at a call on the cache folder."""
    lines = done.trace.splitlines()
    hit = [at for at, line in enumerate(lines) if "(INJECTED)" in line]
    if done.code == -9:
        hit = [
            at for at, line in enumerate(lines) if line.endswith(("= ?", "<unfinished ...>", "<unfinished ...>)"))
        ]
    for at in hit:
        resumed = RESUMED.match(lines[at])
        if resumed is not None:  # its beginning, which names the file, stands further up
            begins = f"{resumed.group(1)} +{resumed.group(2)}\\("
            at = max(before for before in range(at) if re.match(begins, lines[before]))
        if str(folder) in lines[at]:
            return True
    return False


class Matrix:
    """One kind of rebuild, begun again and again from the same folder."""

    def __init__(self, launcher: Launcher, kind: str) -> None:
        self.launcher = launcher
        self.kind = kind
        self.folder = launcher.place.cache
        self._before = launcher.place.folder / "before"
        self._graveyard = launcher.place.folder / "graveyard"
        self._graveyard.mkdir()
        self.old: int | None = None
        if kind == "replacement":
            assert launcher.rebuild().code == 0
            self.old = published(self.folder)
            shutil.copytree(self.folder, self._before)
        # A rebuild reports its progress by the clock, so a slow one makes a few calls more.
        self.points = min((self._traced() for _ in range(3)), key=len)

    def _traced(self) -> list[Point]:
        """Return the calls of one rebuild without a fault."""
        self._reset()
        done = self.launcher.traced(*TRACE, do="rebuild", by_clock=False)
        assert done.code == 0, done.err
        return points_of(done.trace, self.folder)

    def _reset(self) -> None:
        """Bring the folder back to what it was before the rebuild."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.old is not None:
            shutil.copytree(self._before, self.folder)

    def some_points(self, chance: random.Random) -> list[Point]:
        """Every fifth from a random one on, so that each part of the rebuild has some; and one of each call."""
        one_of_each = {point.call: point for point in chance.sample(self.points, len(self.points))}
        chosen = {*self.points[chance.randrange(STRIDE) :: STRIDE], *one_of_each.values()}
        return [point for point in self.points if point in chosen]

    def hit(self, point: Point, injection: str) -> Done | None:
        """Have the fault there; return None if it came elsewhere, or not at all, five times."""
        for _ in range(5):
            done = self._try_to_hit(point, injection)
            if done is not None:
                return done
        return None

    def _try_to_hit(self, point: Point, injection: str) -> Done | None:
        self._reset()
        done = self.launcher.traced(
            *TRACE, "-e", f"inject={point.call}:{injection}:when={point.nth}", do="rebuild", by_clock=False
        )
        return done if was_hit(done, self.folder) else None

    def check(self, done: Done, where: str) -> int | None:
        """Old or new, whole; and the next build is there and leaves no litter.  Returns what was published."""
        try:
            now = published(self.folder)
        except Exception as error:
            raise AssertionError(f"torn after {where}: {error}") from error
        assert done.code != 0 or now == int(done.out), where
        assert now is None or self.old is None or now >= self.old
        assert now is not None or self.old is None, "the old list is gone"
        after = self.launcher.rebuild()
        assert after.code == 0, after.err
        newest = published(self.folder)
        assert newest is not None and newest > (now or 0)
        left = litter(self.folder)
        assert left == [] or (len(left) == 1 and DRAFT.fullmatch(left[0])), f"{left} after {where}"
        for name in left:
            shutil.copy2(self.folder / name, self._graveyard / name)
        return now

    def check_forsaken_drafts_go(self) -> None:
        """All that were left for a later build go with one that comes later."""
        drafts = [shutil.copy2(path, self.folder) for path in self._graveyard.iterdir()]
        end = time.monotonic() + YOUNG
        until(lambda: time.monotonic() > end, "their age")
        assert self.launcher.rebuild().code == 0
        print(f"{len(drafts)} drafts left to a later build")
        assert litter(self.folder) == []


@pytest.fixture(params=["first", "replacement"])
def matrix(request: pytest.FixtureRequest, launcher: Launcher) -> Iterator[Matrix]:
    """Both kinds of publication: of a first list, and over an old one."""
    need_program("strace")
    one = Matrix(launcher, request.param)
    yield one
    one.check_forsaken_drafts_go()


@SOME_OR_ALL
def test_killed_before_each_of_its_calls_a_rebuild_leaves_the_old_list_or_the_new(
    matrix: Matrix, every: bool, chance: random.Random
) -> None:
    left: Counter[str] = Counter()
    littered = 0
    calls: Counter[str] = Counter()
    points = matrix.points if every else matrix.some_points(chance)
    for point in points:
        done = matrix.hit(point, "signal=KILL")
        if done is None or done.code != -9:
            left["not hit"] += 1
            continue
        littered += any(name.endswith(".tmp") for name in litter(matrix.folder))
        now = matrix.check(done, f"a kill before the {point.nth}. {point.call}")
        left["nothing" if now is None else "old" if now == matrix.old else "new"] += 1
        calls[point.call] += 1
    print(f"\n{matrix.kind}: {left.total()} calls, left: {dict(left)}, {littered} with a draft; {dict(calls)}")
    assert len(matrix.points) >= LEAST_KILLS[matrix.kind]
    assert left["not hit"] <= 1 + len(points) // (8 if every else 3), "the rebuild is another in each run"
    assert left["new"] and left["old"] + left["nothing"] >= len(points) // 3
    assert {"openat", "write", "writev", "fsync", "rename", "close", "flock"} <= {point.call for point in points}
    assert littered, "no kill left a draft, so nothing had to be tidied"


@SOME_OR_ALL
def test_full_disk_reported_at_close_leaves_the_old_list_or_the_new(
    matrix: Matrix, every: bool, chance: random.Random
) -> None:
    """Some file systems take what is written and say only then that there is no room."""
    hit = 0
    closings = [point for point in matrix.points if point.call == "close" and point.errors]
    for point in closings:
        for error in ["ENOSPC", "EDQUOT"] if every else [chance.choice(["ENOSPC", "EDQUOT"])]:
            done = matrix.hit(point, f"error={error}")
            if done is not None:
                hit += 1
                matrix.check(done, f"{error} at the {point.nth}. close: {done.err[-600:]}")
    assert hit >= 8 and hit >= len(closings) // 2


@SOME_OR_ALL
def test_each_error_at_each_of_its_calls_leaves_the_old_list_or_the_new_and_is_reported(
    matrix: Matrix, every: bool, chance: random.Random
) -> None:
    ends: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    locked = next(at for at, point in enumerate(matrix.points) if point.call == "write")
    chosen = matrix.points if every else matrix.some_points(chance)
    for at, point in enumerate(matrix.points):
        for error in (point.errors if every else point.some_errors(chance)) if point in chosen else ():
            done = matrix.hit(point, f"error={error}")
            if done is None:
                ends["not hit"] += 1
                continue
            where = f"{error} at the {point.nth}. {point.call}: {done.err[-600:]}"
            assert done.code in (0, 1), where
            errors[error] += 1
            if done.code == 0:
                ends["survived"] += 1
            else:
                assert ": " in done.err.splitlines()[-1], where
                status = matrix.launcher.status()
                if status["state"] == "failed":
                    ends["told in status"] += 1
                    assert status["last_error"] is not None, where
                else:
                    # Nothing had begun, or all was done but for the closing.
                    ends["told by the command"] += 1
                    assert at <= locked or point.call == "close", where
            matrix.check(done, where)
    print(f"{matrix.kind}: {errors.total()} errors at {len(matrix.points)} calls: {dict(ends)}; {dict(errors)}")
    assert ends["not hit"] <= 1 + errors.total() // (10 if every else 3), "the rebuild is another in each run"
    assert ends["told in status"] and len(errors) >= 3
    if every:
        assert errors.total() >= LEAST_ERRORS[matrix.kind] and set(errors) == KINDS
