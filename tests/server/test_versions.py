"""The start-up app with other versions of gunicorn than the one installed here, and beside setproctitle."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gunicorn
import pytest

from tests.benchmarks import startup
from tests.startup_app.parts import LATE, write
from tests.support.ports import free_port

from .test_doctor import examine, master
from .world import Place, Server, running

refuse: Callable[[str], NoReturn] = pytest.fail if os.environ.get("CI") == "true" else pytest.skip


def install(*arguments: object) -> None:
    """By pip; where it has no registry the test is skipped, but fails where CI says that it counts."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    ran = subprocess.run(command, text=True, capture_output=True, timeout=300)
    if ran.returncode:
        refuse(f"pip cannot install: {ran.stderr[-500:]}")


@pytest.fixture(scope="module")
def python_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The Python of an environment with that version of gunicorn, and all that is installed here behind it."""

    def make(version: str) -> str:
        folder = tmp_path_factory.mktemp("gunicorn") / version
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
        python = folder / "bin" / "python"
        install("--python", python, "install", "-q", "--no-deps", f"gunicorn=={version}")
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "behind.pth").write_text(sysconfig.get_path("purelib"))
        return str(python)

    return make


@pytest.mark.parametrize("version", ["21.2.0", "22.0.0"])
def test_nobody_is_killed_while_a_worker_starts_for_longer_than_the_timeout(
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


@pytest.mark.parametrize("has_socket", [True, False])
def test_a_server_that_setproctitle_has_renamed_is_read_by_its_control_socket(
    place: Place, has_socket: bool
) -> None:
    if has_socket and gunicorn.version_info < (25, 1):
        pytest.skip("gunicorn has a control socket from 25.1 on")
    install("install", "-q", "--no-deps", "--target", place.folder / "titles", "setproctitle")
    ours = place.env["PYTHONPATH"]
    # Where gunicorn puts its socket; the name of one is at most about 100 characters long.
    with tempfile.TemporaryDirectory() as runtime:
        place.env |= {"XDG_RUNTIME_DIR": runtime, "GUNICORN_TIMEOUT": "300"}
        place.env["PYTHONPATH"] += f"{os.pathsep}{place.folder / 'titles'}"
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-w", "1", "--threads", "3"]
        if not has_socket and gunicorn.version_info >= (25, 1):
            command.append("--no-control-socket")
        with running(Server(place, [*command, "app_files:app"], port, 1, preload=False)) as server:
            place.env["PYTHONPATH"] = ours
            assert Path(f"/proc/{server.process.pid}/cmdline").read_bytes().startswith(b"gunicorn: master")
            told = examine(place, *master(server), code=1)
        found = told["found"]
        if not has_socket:
            assert found["gunicorn.unreadable"]["level"] == "warning"
            assert "setproctitle" in found["gunicorn.unreadable"]["do"]
            return
        assert found["gunicorn.title"]["level"] == "info"
        settings = told["server"]["settings"]
        assert settings["timeout"] == {"value": 30, "source": "gunicorn's default"}
        assert settings["worker_class"] == {"value": "gthread", "source": "source unknown"}
        assert settings["threads"] == {"value": 3, "source": "source unknown"}
        ignored = found["gunicorn.variable_ignored"]
        assert ignored["what"] == "GUNICORN_TIMEOUT=300 is not in force: timeout is 30 (gunicorn's default)."
