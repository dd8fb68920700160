"""The start-up app with other versions of gunicorn than the installed one, and with setproctitle."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import startup
from tests.startup_app.parts import LATE, write
from tests.support.needs import missing
from tests.support.places import Place
from tests.support.processes import run
from tests.support.servers import gunicorn_server

from .test_doctor import examine, master


def install(*arguments: object) -> None:
    """By pip; where it has no registry the test is skipped, but fails where CI says that it counts."""
    ran = run([sys.executable, "-m", "pip", *map(str, arguments)], timeout=300)
    if ran.returncode:
        missing(f"pip cannot install: {ran.stderr[-500:]}")


@pytest.fixture(scope="module")
def python_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The Python of an environment with that version of gunicorn, and all that is installed here behind it."""

    def make(version: str) -> str:
        folder = tmp_path_factory.mktemp("gunicorn") / version
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
        python = folder / "bin" / "python"
        install("--python", python, "install", "-q", "--no-deps", f"gunicorn=={version}")
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "behind.pth").write_text(sysconfig.get_path("purelib"))
        return str(python)

    return make


@pytest.mark.parametrize("version", ["21.2.0", "22.0.0"])
def test_no_worker_is_killed_while_one_starts_for_longer_than_the_timeout(
    python_with: Callable[[str], str], tmp_path: Path, version: str
) -> None:
    """Both the task and all imports together take longer; 21.2 would kill for either, done at import."""
    python = python_with(version)
    assert startup.version_of(python) == version
    task = startup.TIMEOUT * 1.5
    write(tmp_path / "parts", late_seconds=0.2)
    found: dict[str, Any] = startup.measure("deferred", tmp_path / "parts", tmp_path / "server", python, task)
    log = (tmp_path / "server" / "log").read_text()
    assert f"Starting gunicorn {version}" in log
    assert f"timeout={startup.TIMEOUT} (command line)" in log
    assert (found["killed"], found["booted"], found["task runs"]) == (0, startup.WORKERS, 1), log
    assert found["parts"] == dict.fromkeys(LATE, startup.WORKERS)
    assert found["first 200"] < found["task done"] and found["task done"] > task
    assert "Traceback" not in log


def test_settings_of_a_server_renamed_by_setproctitle_cannot_be_read(place: Place) -> None:
    install("install", "-q", "--no-deps", "--target", place.folder / "titles", "setproctitle")
    ours = place.env["PYTHONPATH"]
    place.add_path(place.folder / "titles")
    with gunicorn_server(place, workers=1) as server:
        place.env["PYTHONPATH"] = ours
        assert Path(f"/proc/{server.process.pid}/cmdline").read_bytes().startswith(b"gunicorn: master")
        found = examine(place, *master(server), code=1)["found"]
        assert found["gunicorn.unreadable"]["level"] == "warning"
        assert "setproctitle" in found["gunicorn.unreadable"]["do"]
