"""Files of the cache folder that are deleted, cut short, changed and exchanged while workers serve them."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.answers import Answer, check_whole
from tests.support.places import Place
from tests.support.servers import Readers, Server, gunicorn_server
from tests.support.waiting import until

from .cache_files import is_damaged, litter


def data_of(folder: Path) -> Path:
    """A data file with something in it; that of a rebuild at work may still be empty."""
    for path in sorted(folder.glob("*.data")):
        if path.stat().st_size > 1:
            return path
    raise FileNotFoundError("no data file")


def replaced(path: Path, content: bytes) -> None:
    """As an editor or a restored backup does it: another file under the name."""
    draft = path.with_name("meddling")
    draft.write_bytes(content)
    draft.chmod(0o600)
    os.replace(draft, path)


def changed_in_place(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))


class Meddler:
    """One kind of meddling after the other, each with chance's help."""

    def __init__(self, folder: Path, backup: Path, other: Path, chance: random.Random) -> None:
        """:param backup: the files of an older list. :param other: those of another list."""
        self.folder = folder
        self._backup = backup
        self._other = other
        self._chance = chance

    @property
    def index(self) -> Path:
        return self.folder / "files.index"

    def deletes_the_index(self) -> None:
        self.index.unlink()

    def deletes_the_data(self) -> None:
        data_of(self.folder).unlink()
        self.index.touch()  # so that it is opened again

    def deletes_everything(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    def cuts_the_index(self) -> None:
        content = self.index.read_bytes()
        replaced(self.index, content[: self._chance.randrange(max(1, len(content)))])

    def cuts_the_data(self) -> None:
        data = data_of(self.folder)
        content = data.read_bytes()
        replaced(data, content[: self._chance.randrange(1, len(content))])
        self.index.touch()

    def empties_the_index(self) -> None:
        replaced(self.index, b"")

    def flips_a_bit_of_the_header(self) -> None:
        content = bytearray(self.index.read_bytes())
        content[self._chance.randrange(700)] ^= 1 << self._chance.randrange(8)
        replaced(self.index, bytes(content))

    def flips_a_bit_of_the_index_in_place(self) -> None:
        changed_in_place(self.index, self._chance.randrange(self.index.stat().st_size))

    def flips_a_bit_of_the_data_in_place(self) -> None:
        data = data_of(self.folder)
        changed_in_place(data, self._chance.randrange(data.stat().st_size))

    def restores_an_older_list(self) -> None:
        for path in sorted(self._backup.iterdir(), reverse=True):  # the index, which is looked at, last
            shutil.copy2(path, self.folder / f"{path.name}.copy")
            os.replace(self.folder / f"{path.name}.copy", self.folder / path.name)

    def brings_another_lists_index(self) -> None:
        replaced(self.index, (self._other / "files.index").read_bytes())

    def makes_a_folder_of_the_index(self) -> None:
        self.index.unlink()
        self.index.mkdir()
        with suppress(FileNotFoundError, NotADirectoryError):  # a publication has replaced it
            self.index.rmdir()

    def deletes_the_reports(self) -> None:
        (self.folder / "files.progress").unlink()
        self.index.unlink()


VERBS = {"deletes", "cuts", "empties", "flips", "restores", "brings", "makes"}
KINDS = [name for name in vars(Meddler) if name.split("_")[0] in VERBS]


def other_list(make_place: Callable[..., Place], tmp_path: Path) -> Path:
    """A folder with a list of the same name and declaration and with other items."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    place = Place(folder, items=7)
    assert place.flask("warmcache", "rebuild", "files").returncode == 0
    return place.cache


def is_whole(answer: Answer) -> bool:
    try:
        check_whole(answer)
    except (AssertionError, ValueError, KeyError, IndexError, TypeError):
        return False
    return True


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.long)])
def test_no_meddling_with_the_files_makes_an_answer_fail(
    make_place: Callable[..., Place], tmp_path: Path, chance: random.Random, rounds: int
) -> None:
    place = make_place(items=40, retry_min=0.1, retry_max=0.3)
    other = other_list(make_place, tmp_path)
    backup = tmp_path / "backup"
    done: Counter[str] = Counter()
    in_place: list[tuple[float, float]] = []
    rebuilt = 0
    with gunicorn_server(place) as server:
        server.warm_up()
        shutil.copytree(place.cache, backup, ignore=shutil.ignore_patterns("*.lock", "*.progress"))
        before = server.get().generation
        server.get("/invalidate", "POST")
        server.until_newer(before)
        server.next_of_each_worker()
        meddler = Meddler(place.cache, backup, other, chance)
        with Readers(server, clients=3) as readers:
            for _ in range(rounds):
                for kind in chance.sample(KINDS, len(KINDS)):
                    done[kind] += 1
                    at = time.monotonic()
                    before = until(lambda: meddle(server, meddler, kind), kind)  # noqa: B023
                    # Not every byte says something: padding, or an order's rank.
                    if not kind.endswith("in_place") or is_damaged(place.cache):
                        if kind.startswith("restores") and server.get().state == "fresh":
                            server.get("/invalidate", "POST")
                        until(lambda: server.get().generation > before, f"a newer list after meddling: {kind}")  # noqa: B023
                        rebuilt += 1
                    if kind.endswith("in_place"):
                        in_place.append((at, time.monotonic()))
            readers.wait_for(100)
        assert not list(place.cache.glob("*.tmp"))
        check_answers(server, readers, in_place)
        newest = server.warm_up()
        check_whole(newest)
        for answer in server.next_of_each_worker().values():
            assert answer.generation == newest.generation
        assert litter(place.cache) == []
        print(f"{done.total()} times meddled, {rebuilt} new lists: {dict(done)}")


def meddle(server: Server, meddler: Meddler, kind: str) -> int:
    """Meddle with a fresh list and return its generation; 0 if a build has just exchanged the file."""
    before = server.warm_up().generation
    try:
        getattr(meddler, kind)()
    except FileNotFoundError:
        return 0
    return before


def check_answers(server: Server, readers: Readers, in_place: list[tuple[float, float]]) -> None:
    """All were 200 and whole, except between a change in place and its discovery by a keeper."""
    broken = [answer for answer in readers.answers if not is_whole(answer)]
    excused = [one for one in broken if any(at <= one.end and one.begin <= seen for at, seen in in_place)]
    print(f"{len(readers.answers)} reads, {len(excused)} of them of bytes just changed in place")
    assert readers.errors == []
    assert {answer.status for answer in readers.answers} == {200}
    inexcusable = [one for one in broken if one not in excused]
    assert not inexcusable, (inexcusable[0].headers, inexcusable[0].body[-300:])
    assert len(server.pids) == 4
    assert "Exception on" not in server.log and "Error handling request" not in server.log
    ended_by = set(re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception): .*)", server.log, re.MULTILINE))
    # A publication's own draft may be deleted.
    expected = r"RebuildError: |FileNotFoundError: .*\.tmp'"
    unexpected = [error for error in ended_by if not re.match(expected, error)]
    assert not unexpected, "a build that lost its files is refused, nothing else is an error"


def test_a_file_cut_in_place_may_cost_its_readers_and_the_list_is_rebuilt(
    make_place: Callable[..., Place],
) -> None:
    """What another process of our own account shortens under our map, the kernel answers with SIGBUS."""
    place = make_place(items=200, retry_min=0.1, retry_max=0.3, refresh_interval=0)
    killed = 0
    with gunicorn_server(place, workers=2) as server:
        for _ in range(5):
            warm_again(server)
            server.next_of_each_worker()
            before, builds = server.pids, len(place.calls("source"))
            with data_of(place.cache).open("r+b") as file:
                file.truncate(100)
            try:
                server.get("/api/files?page=1&per_page=300")
            except OSError:
                pass  # this worker's end
            until(lambda: has_rebuilt(server, place, builds), "a rebuild")  # noqa: B023
            check_whole(warm_again(server))
            until(lambda: len(server.pids) == 2, "two workers")
            killed += len(before - server.pids)
        check_whole(warm_again(server))
    print(f"\n5 files cut under two workers, {killed} workers lost")
    assert killed <= 10


def warm_again(server: Server) -> Answer:
    """Fresh, although a worker that still had the shortened file mapped ends in between."""

    def answers() -> list[Answer]:
        try:
            return [server.warm_up()]
        except OSError:
            return []

    return until(answers, "a fresh list")[0]


def has_rebuilt(server: Server, place: Place, builds: int) -> bool:
    try:
        server.get()
    except OSError:
        pass
    return len(place.calls("source")) > builds


def test_an_older_list_that_is_put_back_is_served_as_stale(place: Place, tmp_path: Path) -> None:
    for answer, newest in older_lists_put_back(place, tmp_path):
        check_whole(answer)
        assert answer.generation < newest
        assert answer.state == "stale" and answer.json["cache_rebuilding"] is True


def test_what_is_published_over_an_older_list_that_was_put_back_is_newer_than_all(
    place: Place, tmp_path: Path
) -> None:
    generations = []
    for answer, newest in older_lists_put_back(place, tmp_path):
        check_whole(answer)
        assert answer.generation < newest
        generations.append(newest)
    assert len(generations) == 3 and generations == sorted(set(generations))


def until_older(server: Server, generation: int) -> Answer:
    """Ask until the list is older than that; nobody tells the worker."""
    answers: list[Answer] = []

    def is_older() -> bool:
        answers.append(server.get())
        return answers[-1].generation < generation

    until(is_older, "the older list")
    return answers[-1]


def older_lists_put_back(place: Place, tmp_path: Path) -> Iterator[tuple[Answer, int]]:
    """Three times: what is answered then, and the newest generation that was there."""
    backup = tmp_path / "backup"
    place.gate.touch()
    with gunicorn_server(place.with_gate(), workers=1) as server:
        server.warm_up()
        shutil.copytree(place.cache, backup)
        for _ in range(3):
            seen = server.get().generation
            assert place.flask("warmcache", "rebuild", "files").returncode == 0
            newest = server.until_newer(seen).generation
            # Until the test has seen the older list, no rebuild replaces it.
            place.gate.unlink()
            Meddler(place.cache, backup, backup, random.Random(0)).restores_an_older_list()
            yield until_older(server, newest), newest
            place.gate.touch()
            # The worker may be at it already.
            assert place.flask("warmcache", "rebuild", "files", "--wait").returncode == 0
            assert server.until_newer(newest).generation > newest
