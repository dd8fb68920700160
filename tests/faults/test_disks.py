"""Folders that cannot be written any more, and folders and files that are mounted into a container."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.answers import backwards, check_whole
from tests.support.launcher import launcher_for
from tests.support.needs import need_mounts
from tests.support.places import Place
from tests.support.servers import Readers, Server, gunicorn_server
from tests.support.waiting import until

from .cache_files import litter, published
from .conftest import Make

SIZE = 4 << 20
RETRY_MAX = 0.5


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, timeout=120)


@contextmanager
def mounted(where: Path, *arguments: object) -> Iterator[Path]:
    """Something mounted there for the time of the block."""
    mount(*arguments, where)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True, timeout=120)


# Each makes the folder unwritable for the block


@contextmanager
def full(place: Place, server: Server) -> Iterator[None]:
    ballast = place.cache / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for piece in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    os.write(descriptor, bytes(piece))
        yield
    finally:
        os.close(descriptor)
        ballast.unlink()


@contextmanager
def read_only(place: Place, server: Server) -> Iterator[None]:
    # A file that is open for writing would make the remount fail.
    def remounted() -> bool:
        return subprocess.run(["mount", "-o", "remount,ro", place.cache], stderr=-1).returncode == 0

    until(remounted, "a moment in which nobody writes")
    try:
        yield
    finally:
        mount("-o", "remount,rw", place.cache)


@contextmanager
def no_inodes(place: Place, server: Server) -> Iterator[None]:
    made: list[Path] = []
    try:
        with pytest.raises(OSError) as failed:
            while True:
                path = place.cache / f"ballast-{len(made)}"
                path.touch()
                made.append(path)
        assert failed.value.errno == errno.ENOSPC
        yield
    finally:
        for path in made:
            path.unlink()


@contextmanager
def quota(place: Place, server: Server) -> Iterator[None]:
    """No file may be longer than half a list; the kernel then writes a part, and says nothing until the next."""
    limit = min(path.stat().st_size for path in place.cache.glob("*.data")) // 2
    limited = [psutil.Process(pid) for pid in server.pids]
    for process in limited:
        process.rlimit(psutil.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for process in limited:
            process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def failures_of(server: Server) -> int:
    """How many rebuilds have failed, as its log tells."""
    return server.log.count("warmcache.rebuild_failed")


Trouble = Callable[[Place, Server], AbstractContextManager[None]]


@pytest.mark.parametrize("trouble", [full, read_only, no_inodes, quota])
def test_where_nothing_can_be_written_the_old_list_is_served_and_the_new_one_comes_with_the_room(
    make_place: Make, trouble: Trouble
) -> None:
    need_mounts()
    # Half a megabyte a list.
    place = make_place(items=60, text=400, ttl=0.5, retry_min=0.1, retry_max=RETRY_MAX)
    place.cache.mkdir(mode=0o700)
    options = f"size={SIZE},nr_inodes=40,mode=0700"
    with mounted(place.cache, "-t", "tmpfs", "-o", options, "tmpfs"), gunicorn_server(place, workers=2) as server:
        server.warm_up()
        server.next_of_each_worker()
        with Readers(server, clients=2) as readers:
            with trouble(place, server):

                def all_know() -> bool:
                    return {stats["state"] for stats in server.stats().values()} == {"failed"}

                until(all_know, lambda: f"failed in every worker, only {server.stats()}")
                tries = failures_of(server)
                old = server.get().generation
                readers.wait_for(100)
                until(lambda: failures_of(server) >= tries + 3, "three more attempts")
                for stats in server.stats().values():
                    assert stats["last_error"] is not None and stats["is_populated"] is True
                during = [answer for answer in readers.answers if answer.generation == old]
            newer = until(lambda: [one for one in [server.get()] if one.generation > old], "a newer list")[0]
            readers.wait_for(50)
        failures = failures_of(server)
        print(f"\n{len(readers.answers)} reads, {len(during)} of the old list, {failures} failed builds")
        assert failures >= 4, "too few builds failed to show anything"
        assert len(during) >= 100
        for answer in readers.answers:
            check_whole(answer)
        assert readers.errors == [] and backwards(readers.answers) == []
        check_whole(newer)
        until(lambda: {one["last_error"] for one in server.stats().values()} == {None}, "the failure's end")
        assert [name for name in litter(place.cache) if name.endswith(".tmp")] == []


def test_a_first_build_on_a_full_disk_answers_cold_and_comes_with_the_room(make_place: Make) -> None:
    need_mounts()
    place = make_place(items=60, text=400, retry_min=0.1, retry_max=RETRY_MAX)
    place.cache.mkdir(mode=0o700)
    options = f"size={SIZE},mode=0700"
    with mounted(place.cache, "-t", "tmpfs", "-o", options, "tmpfs"), gunicorn_server(place, workers=2) as server:
        with full(place, server):
            server.next_of_each_worker()
            until(lambda: failures_of(server) >= 3, "three failed builds")
            answers = server.next_of_each_worker().values()
            for answer in answers:
                assert answer.status == 200
                assert answer.json["files"] == [] and answer.json["cache_rebuilding"] is True
        check_whole(server.warm_up())


# Mounts


def test_a_folder_that_is_mounted_is_a_folder_like_any_other(make_place: Make) -> None:
    need_mounts()
    place = make_place()
    host = place.folder / "volume"
    for folder in (host, place.cache):
        folder.mkdir(mode=0o700)
    with mounted(place.cache, "--bind", host), launcher_for(place) as launcher:
        for _ in range(3):
            done = launcher.rebuild()
            assert done.code == 0, done.err
            assert published(host) == published(place.cache) == int(done.out)
        assert litter(host) == []


@pytest.mark.parametrize("name", ["files.index", "files.progress"])
def test_single_mounted_file_keeps_the_old_list_and_is_reported(make_place: Make, name: str) -> None:
    need_mounts()
    place = make_place()
    with launcher_for(place) as launcher:
        assert launcher.rebuild().code == 0
        old = published(place.cache)
        path = place.cache / name
        with mounted(path, "--bind", path):
            with pytest.raises(OSError) as refused:
                os.replace(place.cache / "files.lock", path)
            assert refused.value.errno == errno.EBUSY, "the mount does not stand in the way"
            done = launcher.rebuild()
            if name == "files.index":
                assert done.code == 1
                assert "OSError: [Errno 16] Device or resource busy" in done.err
                assert "warmcache.rebuild_failed" in done.err
                assert published(place.cache) == old
                status = launcher.status()
                assert status["state"] == "failed" and status["last_error"] == "OSError"
                doctor = place.flask("warmcache", "doctor", "--json")
                assert doctor.returncode == 2
                assert "In the cache folder, files.index is a mount." in doctor.stdout
            else:  # only a report
                assert done.code == 0, done.err
                assert published(place.cache) == int(done.out)
        done = launcher.rebuild()
        assert done.code == 0, done.err
        assert published(place.cache) == int(done.out)
        assert litter(place.cache) == []
        assert launcher.status()["state"] == "fresh"


def test_a_lock_on_another_mount_of_the_same_folder_is_the_same_lock(make_place: Make) -> None:
    """As two containers have it, each with a mount of its own of one volume."""
    need_mounts()
    place = make_place().with_gate()
    other = Place(place.folder)
    other.cache = place.folder / "other"
    other.env |= {"WARMCACHE_DIR": os.fspath(other.cache)}
    for folder in (place.cache, other.cache):
        folder.mkdir(mode=0o700)
    with mounted(other.cache, "--bind", place.cache), gunicorn_server(place, workers=1) as server:
        server.get()
        place.builder_at_gate()
        ran = other.flask("warmcache", "rebuild", "files")
        assert ran.returncode == 3, f"two builds at once: {ran}"
        place.gate.touch()
        server.warm_up()
        assert other.flask("warmcache", "rebuild", "files").returncode == 0
        assert published(place.cache) == published(other.cache)
