"""The security list: other accounts, planted links, doctored files, curious and greedy clients."""

from __future__ import annotations

import json
import marshal
import os
import pickle
import random
import re
import shutil
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from flask_warmcache.store.change_words import announce
from tests.support.answers import check_items
from tests.support.launcher import Launcher
from tests.support.needs import need_root
from tests.support.places import Place
from tests.support.processes import python, read_line, send_line
from tests.support.servers import gunicorn_server
from tests.support.waiting import until

from .cache_files import is_damaged, litter, published
from .conftest import Make

NOBODY = 65534


def use(launcher: Launcher) -> None:
    """Everything that is done with the folder, whatever is said of it."""
    done = [launcher.flask("warmcache", "status"), launcher.rebuild()]
    done += [launcher.flask("warmcache", command, "files") for command in ("invalidate", "clear")]
    for one in [*done, launcher.rebuild()]:
        assert one.code in (0, 1, 3), one.err


# Other accounts

# Opens and locks every file it is told of; says what it could do.
INTRUDE = """
import fcntl, json, os, sys
could = []
for path in sys.argv[1:]:
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        try:
            descriptor = os.open(path, flags)
        except PermissionError:
            continue
        could.append(f"open {path}")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        could.append(f"lock {path}")
        os.close(descriptor)
try:
    could.append(f"list {os.listdir(os.path.dirname(path))}")
except PermissionError:
    pass
try:
    os.symlink("/etc/passwd", os.path.join(os.path.dirname(path), "planted"))
    could.append("plant")
except PermissionError:
    pass
print(json.dumps({"tried": len(sys.argv) - 1, "uid": os.getuid(), "could": could}))
"""


def intrude(paths: list[Path]) -> dict[str, Any]:
    """As another account, with an interpreter that anybody may run."""
    ran = subprocess.run(
        ["/usr/bin/env", "python3", "-I", "-c", INTRUDE, *map(os.fspath, paths)],
        user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", text=True, capture_output=True, timeout=120,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    if ran.returncode:
        pytest.skip(f"no interpreter for another account: {ran.stderr[-200:]}")
    return json.loads(ran.stdout)  # type: ignore[no-any-return]


@contextmanager
def way_in(folder: Path) -> Iterator[None]:
    """Other accounts may go as far as this folder's door."""
    closed = [parent for parent in folder.parents if parent.stat().st_mode & 0o001 == 0]
    for parent in closed:
        parent.chmod(parent.stat().st_mode | 0o001)
    try:
        yield
    finally:
        for parent in closed:
            parent.chmod(parent.stat().st_mode & ~0o001)


def test_another_account_can_neither_read_nor_lock_nor_plant(launcher: Launcher) -> None:
    need_root()
    assert launcher.rebuild().code == 0
    assert launcher.flask("warmcache", "invalidate", "files").code == 0
    folder = launcher.place.cache
    paths = sorted(folder.iterdir())
    with way_in(folder):
        shut = intrude(paths)
        folder.chmod(0o711)  # as if the folder's own mode did not count
        ajar = intrude(paths)
        folder.chmod(0o700)
        control = launcher.place.folder / "control"
        control.mkdir()
        (control / "file").write_text("")
        control.chmod(0o777)
        (control / "file").chmod(0o666)
        open_to_all = intrude([control / "file"])
    print(f"\n{shut['tried'] + ajar['tried']} files tried: {[path.name for path in paths]}")
    assert shut["uid"] == NOBODY and shut["tried"] == ajar["tried"] == len(paths) >= 6
    assert shut["could"] == ajar["could"] == []
    assert len(open_to_all["could"]) == 8, "not even an open folder could be entered, so nothing is shown"


def test_a_folder_of_another_account_or_a_link_is_refused_by_its_path(make_place: Make) -> None:
    need_root()
    place = make_place()

    def theirs() -> None:
        place.cache.mkdir(mode=0o700)
        os.chown(place.cache, NOBODY, NOBODY)

    def link() -> None:
        elsewhere = place.folder / "elsewhere"
        elsewhere.mkdir(mode=0o700, exist_ok=True)
        place.cache.symlink_to(elsewhere)

    said = []
    for plant in (theirs, link):
        plant()
        for arguments in (("rebuild", "files"), ("invalidate", "files"), ("clear", "files")):
            ran = place.flask("warmcache", *arguments)
            assert ran.returncode == 1, ran
            assert "WARMCACHE_DIR" in ran.stderr
            said.append(ran.stderr)
        assert list(place.cache.iterdir()) == []
        place.cache.unlink() if place.cache.is_symlink() else place.cache.rmdir()
    assert len(said) == 6 and all(str(place.cache) in text.splitlines()[-1] for text in said)


def test_a_volume_of_root_gets_a_private_folder_for_the_account(make_place: Make) -> None:
    need_root()
    place = make_place()
    for mode in (0o777, 0o1777, 0o2777):
        place.cache.mkdir()
        place.cache.chmod(mode)
        ran = place.flask("warmcache", "rebuild", "files")
        assert ran.returncode == 0, ran
        (inside,) = place.cache.iterdir()
        assert (inside.name, stat.S_IMODE(inside.stat().st_mode) & 0o777) == ("warmcache-0", 0o700)
        os.chown(inside, NOBODY, NOBODY)  # as if the server were another account, and this a command of root
        ran = place.flask("warmcache", "invalidate", "files")
        assert (ran.returncode, f"{inside} belongs to another account (nobody" in ran.stderr) == (1, True), ran
        shutil.rmtree(place.cache)


# Links and modes


def test_links_under_every_name_leave_their_target_alone(launcher: Launcher) -> None:
    folder, victim = launcher.place.cache, launcher.place.folder / "victim"
    assert launcher.rebuild().code == 0
    assert launcher.flask("warmcache", "invalidate", "files").code == 0
    names = [path.name for path in sorted(folder.iterdir())]
    planted = Counter[str]()
    for name in names:
        for target_exists in (True, False):
            victim.unlink(missing_ok=True)
            if target_exists:
                victim.write_text("precious")
                victim.chmod(0o644)
                os.utime(victim, ns=(10**18, 10**18))
            path = folder / name
            path.unlink(missing_ok=True)
            path.symlink_to(victim)
            planted[name] += 1
            use(launcher)
            assert victim.exists() == target_exists, f"a file was made through the link at {name}"
            if target_exists:
                status = victim.stat()
                assert (victim.read_text(), status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (
                    "precious",
                    10**18,
                    0o644,
                ), name
            if path.is_symlink():
                path.unlink()  # a lock that is a link is refused until somebody removes it
            assert launcher.rebuild().code == 0
            assert published(folder) is not None
    print(f"\n{planted.total()} links planted: {dict(planted)}")
    assert planted.total() == 2 * len(names) >= 12


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_no_other_account_may_read_the_files_whatever_the_umask(launcher: Launcher, umask: int) -> None:
    seen: dict[str, set[int]] = {}
    for order in (["rebuild", "files"], ["invalidate", "files"], ["rebuild", "files"], ["clear", "files"]) * 2:
        assert launcher.flask("warmcache", *order, umask=umask).code == 0
        for path in launcher.place.cache.iterdir():
            seen.setdefault(re.sub(r"\d+", "N", path.name), set()).add(stat.S_IMODE(path.stat().st_mode))
    assert stat.S_IMODE(launcher.place.cache.stat().st_mode) == 0o700
    assert len(seen) >= 6
    assert set().union(*seen.values()) == {0o600}, seen


# Code


class Payload:
    """Runs a command wherever it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.fspath(self._marker),)


def payloads(marker: Path) -> dict[str, bytes]:
    code = f"import os; os.makedirs({os.fspath(marker)!r}, exist_ok=True)"
    found = {f"pickle {protocol}": pickle.dumps(Payload(marker), protocol) for protocol in (0, 2, 4, 5)}
    found["marshal"] = marshal.dumps(compile(code, "x", "exec"))
    found["source"] = code.encode()
    found["json"] = json.dumps({"py/object/apply": "os.mkdir", "__reduce__": ["os.mkdir", [str(marker)]]}).encode()
    return found


def test_a_doctored_file_never_runs(launcher: Launcher, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    found = payloads(marker)
    for protocol in (0, 2, 4, 5):
        pickle.loads(found[f"pickle {protocol}"])
        marker.rmdir()  # it does run where somebody unpickles it
    exec(marshal.loads(found["marshal"]))
    marker.rmdir()
    folder = launcher.place.cache
    assert launcher.rebuild().code == 0
    assert launcher.flask("warmcache", "invalidate", "files").code == 0
    names = [path.name for path in sorted(folder.iterdir())]
    doctored = 0
    for name in names:
        for payload in found.values():
            (folder / name).write_bytes(payload)
            use(launcher)
            doctored += 1
            assert not marker.exists(), name
    for name in ("sitecustomize.py", "json.py", "files.py", "files.pth"):
        (folder / name).write_bytes(found["source"])
    use(launcher)
    assert not marker.exists()
    print(f"\n{doctored} doctored files: {names}")
    assert doctored >= 6 * 7


NAMES = [
    "../x",
    "a/b",
    "/etc/passwd",
    "a\0b",
    "ä",
    "A",
    "",
    ".",
    "..",
    "a b",
    "a\n",
    "x" * 65,
    "x" * 1000,
    "*",
    "a.b",
]


def test_no_name_leaves_the_folder() -> None:
    from flask_warmcache import WarmCache

    for name in NAMES:
        with pytest.raises(ValueError):
            WarmCache().warm_list(name, key="path")
    WarmCache().warm_list("x" * 64, key="path")


# What clients are told

# Everything that /api/cache/stats says of a list.  A key that is added here is one that anybody may read.
TOLD = (Path(__file__).parent / "stats_keys.txt").read_text().split()


def keys_of(section: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in section.items():
        found.add(prefix + key)
        if isinstance(value, dict):
            found |= keys_of(value, f"{prefix}{key}.")
    return found


def test_the_stats_say_what_they_are_known_to_say_and_no_path_pid_or_traceback(make_place: Make) -> None:
    place = make_place(retry_min=0.1, sleep=0.3).with_gate().with_failing()
    bodies: list[str] = []
    keys: set[str] = set()
    pids: set[int] = set()
    with gunicorn_server(place, workers=2) as server:

        def look() -> str:
            answer = server.get("/api/cache/stats")
            section = server.get("/api/cache/stats/files")
            bodies.extend(one.body.decode() for one in (answer, section, server.get("/api/cache/stats/none")))
            keys.update(keys_of({key: value for key, value in answer.json.items() if key != "files"}, "*."))
            keys.update(keys_of(answer.json["files"]))
            pids.update(server.pids)
            return str(section.json.get("state", ""))

        look()
        server.get()
        place.builder_at_gate()
        look()
        place.gate.touch()
        server.warm_up()
        place.failing.touch()
        server.get("/invalidate", "POST")
        until(lambda: look() == "failed", "failed")
        place.failing.unlink()
        server.get("/invalidate", "POST")
        server.warm_up()
        assert look() == "fresh"
        pids.add(server.process.pid)
    print(f"\n{len(bodies)} answers, keys: {' '.join(sorted(keys))}")
    assert len(bodies) >= 12
    unknown = sorted(keys - set(TOLD))
    assert unknown == [], "new in the stats: see that they tell nothing, then add them to stats_keys.txt"
    for body in bodies:
        assert str(place.folder) not in body and "/tmp" not in body and ".py" not in body
        assert "Traceback" not in body and "share is not mounted" not in body
        assert pids.isdisjoint(int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", body))


INTERVAL = 1.0
REQUESTS = 1000


def test_a_thousand_refreshes_start_one_build_an_interval_at_most(make_place: Make) -> None:
    place = make_place(refresh_interval=INTERVAL)
    with gunicorn_server(place) as server:
        server.warm_up()
        server.next_of_each_worker()
        before = len(place.calls("source"))
        began = time.monotonic()
        answers = []
        for _ in range(REQUESTS // 50):
            answers += server.ask_at_once("/api/files?refresh=true", 50)
        took = time.monotonic() - began
        server.warm_up()
        starts = [call.at for call in place.calls("source")][before:]
        print(f"\n{len(answers)} requests in {took:.1f} s, {len(starts)} builds")
        assert len(answers) == REQUESTS
        assert {answer.status for answer in answers} == {200}
        assert len(starts) <= took / INTERVAL + 1
        # And not one after the other either, once the interval is over.
        until(lambda: time.monotonic() - began > 2 * INTERVAL, "the interval's end")
        until(lambda: server.get("/api/files?refresh=true").json["cache_rebuilding"], "a refresh that is heard")
        server.warm_up()
        assert len(place.calls("source")) > before


def test_no_other_get_starts_a_build_and_no_post_does_without_leave(place: Place) -> None:
    with gunicorn_server(place, workers=2) as server:
        server.warm_up()
        asked = 0
        for path in (
            "",
            "/stats",
            "/stats/files",
            "/rebuild/files",
            "/invalidate/files",
            "/clear/files",
            "/livez",
        ):
            for method in ("GET", "POST", "PUT", "DELETE"):
                answer = server.get(f"/api/cache{path}", method)
                asked += 1
                assert answer.status < 500
                assert method == "GET" or answer.status in (403, 404, 405), (method, path, answer.status)
        server.warm_up()
        assert asked == 28
        assert len(place.calls("source")) == 1


# Fuzz

# Reads whatever lies in the folder, as a worker would, and says what it read; for a line, which says how much is
# on a page: another number than before, since a worker keeps its finished pages.
READ = """
import json, logging, resource, sys
logging.disable(logging.CRITICAL)
import app_files
app_files.app.config["PROPAGATE_EXCEPTIONS"] = True
queries = ["", "sort=-last", "filter=odd&sort=last", "search=f0000"]
with app_files.app.app_context():
    app_files.files.get()
state = app_files.app.extensions["warmcache"]
state.keeper.stop()
for line in sys.stdin:
    read = []
    for query in queries:
        with app_files.app.test_request_context(f"/api/files?per_page={line.strip()}&{query}"):
            read.append(app_files.files.response().get_data().decode(errors="replace"))
    print(json.dumps(read), flush=True)
"""


@pytest.mark.parametrize("mutants", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_no_mutated_snapshot_escapes_a_reader_or_gives_a_wrong_row_that_no_keeper_sees(
    launcher: Launcher, chance: random.Random, mutants: int
) -> None:
    assert launcher.rebuild().code == 0
    folder = launcher.place.cache
    index, data = folder / "files.index", next(iter(folder.glob("*.data")))
    whole = {path: path.read_bytes() for path in (index, data)}
    rows = {item["path"]: item for item in read_rows(folder)}
    ends: Counter[str] = Counter()
    memory: list[int] = []
    with launcher.place.started(python("-c", READ)) as reader:
        for nth in range(mutants):
            path = index if chance.random() < 0.7 else data
            for each, content in reversed(whole.items()):
                replace(each, content)
            # Without a keeper, what is refused would leave the mutant before it in place.
            assert all(is_right(body, rows) for body in read_by(reader, 100 + nth % 200))
            replace(path, mutated(whole[path], chance))
            if path is data:
                replace(index, whole[index])
            bodies = read_by(reader, 300 + nth % 200)
            wrong = [body for body in bodies if not is_right(body, rows)]
            if not wrong:
                ends["right or nothing"] += 1
            else:
                ends["wrong until the keeper looks"] += 1
                assert is_damaged(folder), wrong[0][:500]
            if nth % 100 == 0:
                memory.append(psutil.Process(reader.pid).memory_info().rss)
    half = len(memory) // 2
    growth = max(memory[half:]) / max(memory[1 : half + 1]) - 1
    print(
        f"{mutants} mutants: {dict(ends)}, memory {memory[0] >> 20} to {memory[-1] >> 20} MB, growth {growth:.1%}"
    )
    assert ends.total() == mutants
    assert ends["wrong until the keeper looks"] > 0, "no mutant was served, so the keeper was not asked"
    assert growth < 0.05
    assert litter(folder) == []


def read_by(reader: subprocess.Popen[str], per_page: int) -> list[str]:
    """What the reader answers to its queries now."""
    send_line(reader, per_page)
    line = read_line(reader)
    assert line, "a mutant was too much for the reader"
    return json.loads(line)  # type: ignore[no-any-return]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    from flask_warmcache.store.snapshot import Snapshot

    snapshot = Snapshot(folder, "files")
    rows = json.loads(b"[%b]" % snapshot.items_json(snapshot.view("all", "")))
    check_items(rows)
    return rows  # type: ignore[no-any-return]


def replace(path: Path, content: bytes) -> None:
    draft = path.parent.parent / "draft"
    draft.write_bytes(content)
    draft.chmod(0o600)
    os.replace(draft, path)
    announce(path.parent, "files")  # so that the next read sees it, and not one a moment later


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, put in, taken out, doubled, or the end cut off."""
    bytes_ = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(max(1, len(bytes_)))
        kind = chance.randrange(6)
        if kind <= 1:
            bytes_[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            bytes_[at:at] = chance.randbytes(chance.choice((1, 2, 8, 100)))
        elif kind == 3:
            del bytes_[at : at + chance.choice((1, 4, 8, 64))]
        elif kind == 4:
            bytes_[at : at + 8] = chance.choice((b"\0", b"\xff", b"9")) * 8
        else:
            del bytes_[at:]
    return bytes(bytes_)


def is_right(body: str, rows: dict[str, dict[str, Any]]) -> bool:
    """Whether it is JSON with rows of the list only."""
    try:
        return all(rows.get(item["path"]) == item for item in json.loads(body)["files"])
    except (ValueError, TypeError, KeyError):
        return False
