"""Which values gunicorn's settings get: from the machine, the environment, or a configuration file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from flask_warmcache import gunicorn_conf
from flask_warmcache.host import gunicorn_settings
from flask_warmcache.host import resources as room
from flask_warmcache.host.gunicorn_settings import (
    Choice,
    chosen_by_environment,
    companions,
    defaults,
    platform_choices,
    shared_memory,
    wrong_variables,
)
from flask_warmcache.host.gunicorn_sources import misspelt, overruled
from tests.support.processes import CHECKOUT

MIB = 1 << 20


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use an environment without such variables, and restore our configuration afterwards."""
    for name in ("WEB_CONCURRENCY", "PORT", "GUNICORN_TIMEOUT", "GUNICORN_WORKERS", "GUNICORN_WORKER_CLASS"):
        monkeypatch.delenv(name, raising=False)
    before = dict(gunicorn_conf._chosen)
    yield
    gunicorn_conf._chosen.clear()
    gunicorn_conf._chosen.update(before)


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, memory: int | None) -> None:
    monkeypatch.setattr(room, "cores", lambda: cores)
    monkeypatch.setattr(room, "memory", lambda: memory)


def composed(**own: Any) -> dict[str, Any]:
    """Return what a configuration file with these settings becomes."""
    gunicorn_conf.compose(own)
    return own


def test_workers_fit_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, memory, workers, why in (
        (4, 16_000 * MIB, 5, "default, 4 cores"),
        (4, 700 * MIB, 3, "default, 700 MiB of memory"),
        (1, None, 2, "default, 1 core"),
        (2, 100 * MIB, 1, "default, 100 MiB of memory"),
        (128, None, 12, "default, 128 cores"),
    ):
        machine(monkeypatch, cores, memory)
        assert defaults()["workers"] == (workers, why)


def test_documented_values_are_those_of_code(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 128, None)
    monkeypatch.setattr(gunicorn_settings, "DROPS_CONNECTIONS", False)
    chosen = defaults()
    chosen.setdefault("worker_tmp_dir", Choice("/dev/shm", ""))  # missing on some machines
    chosen["threads"] = companions("gthread", 0)["threads"]
    text = (CHECKOUT / "docs" / "gunicorn.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| (?:.*, at most )?`([^`]*)` \|", text, re.MULTILINE)
    assert dict(table) == {name: str(choice.value) for name, choice in chosen.items()}


def test_small_host_gets_few_workers_that_share_loaded_app(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 512 * MIB)
    chosen = defaults(small=True)
    assert (chosen["workers"].value, chosen["preload_app"].value) == (2, True)
    machine(monkeypatch, 8, 256 * MIB)
    assert defaults(small=True)["workers"].value == 1


def test_heartbeat_files_are_in_memory_if_that_is_writable(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_bytes(b"//nas/x /mnt/Caf\xe9\r cifs rw 0 0\n" + f"tmpfs {tmp_path} tmpfs rw 0 0\n".encode())
    assert shared_memory(str(tmp_path), str(mounts)) == str(tmp_path)
    mounts.write_text(f"/dev/sda1 {tmp_path} ext4 rw 0 0\n")
    assert shared_memory(str(tmp_path), str(mounts)) is None
    mounts.write_text(f"tmpfs {tmp_path / 'gone'} tmpfs rw 0 0\n")
    assert shared_memory(str(tmp_path / "gone"), str(mounts)) is None
    assert shared_memory(str(tmp_path), str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        ("GUNICORN_TIMEOUT", "abc", "must be a whole number, 0 or more, not 'abc'. Correct it, or"),
        ("GUNICORN_TIMEOUT", "-1", "must be a whole number, 0 or more, not '-1'. Correct it, or"),
        ("GUNICORN_WORKERS", "0", "must be at least 1, not '0'"),
        ("GUNICORN_THREADS", "0", "must be at least 1, not '0'"),
        ("GUNICORN_BIND", "0.0.0.0:80,:", "must be addresses like 0.0.0.0:8000, not '0.0.0.0:80,:'"),
        ("GUNICORN_LOG_LEVEL", "loud", "must be one of debug, info, .*, not 'loud'"),
        ("GUNICORN_WORKER_TMP_DIR", "/no/such", "must be a folder, not '/no/such'"),
        ("GUNICORN_PRELOAD_APP", "maybe", "must be true or false, not 'maybe'"),
        ("GUNICORN_WORKER_CLASS", "gthred", "must be one of gunicorn's worker classes"),
        ("GUNICORN_USER", "nobody-of-that-name", "is refused, not 'nobody-of-that-name'"),
    ],
)
def test_wrong_variable_is_refused_by_name(variable: str, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"{variable} {why}"):
        chosen_by_environment({variable: text})


@pytest.mark.parametrize("text", ["0", "many", "-2", "1.5"])
def test_wrong_number_of_workers_or_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=f"WEB_CONCURRENCY must be .*, not '{text}'"):
        platform_choices({"WEB_CONCURRENCY": text})
    with pytest.raises(ValueError, match=f"PORT must be .*, not '{text}'"):
        platform_choices({"PORT": text})
    problems = wrong_variables({"PORT": text, "GUNICORN_TIMEOUT": "soon"})
    assert [problem.split(" must be")[0] for problem in problems] == ["PORT", "GUNICORN_TIMEOUT"]


def test_empty_port_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")  # gunicorn would make "0.0.0.0:" of it, and fail
    assert composed()["bind"] == ["127.0.0.1:8000"]
    monkeypatch.setenv("PORT", "81")
    assert composed()["bind"] == ["0.0.0.0:81"]


def test_every_setting_of_gunicorn_has_variable() -> None:
    environ = {
        "GUNICORN_TIMEOUT": "300",
        "GUNICORN_PRELOAD_APP": "1",
        "GUNICORN_BIND": "127.0.0.1:1,127.0.0.1:2",
        "GUNICORN_ACCESSLOG": "-",
        "GUNICORN_KEEPALIVE": "",
        "GUNICORN_KEEP_ALIVE": "9",
        "GUNICORN_LOG_LEVEL": "debug",
        "GUNICORN_LOGLEVEL": "warning",
        # Variables that gunicorn itself and Kubernetes set are not settings.
        "GUNICORN_CMD_ARGS": "-w 3",
        "GUNICORN_FD": "3",
        "GUNICORN_PID": "17",
        "GUNICORN_ENV": "production",
        "GUNICORN_PORT": "tcp://10.0.0.1:80",
        "GUNICORN_ON_STARTING": "os.abort",
    }
    assert {name: choice.value for name, choice in chosen_by_environment(environ).items()} == {
        "timeout": 300,
        "preload_app": True,
        "bind": ["127.0.0.1:1", "127.0.0.1:2"],
        "accesslog": "-",
        "keepalive": 9,
        "loglevel": "warning",
    }
    assert misspelt(environ) == []


@pytest.mark.parametrize(
    ("port", "bind", "named"),
    [
        ("5000", ["127.0.0.1:5000"], []),
        ("5000", ["unix:/run/shop.sock", "[::]:5000"], []),
        (" 5000", ["0.0.0.0:5000"], []),
        ("5000", ["127.0.0.1:15000"], ["PORT=5000 is not in force: bind is ['127.0.0.1:15000'] (command line)"]),
    ],
)
def test_port_is_in_force_wherever_it_is_bound(port: str, bind: list[str], named: list[str]) -> None:
    cfg = Config()
    cfg.env_orig = {"PORT": port}
    cfg.set("bind", bind)
    assert [str(one) for one in overruled(cfg, {"bind": "command line"})] == named


def test_misspelt_variable_is_named() -> None:
    corrected = {"GUNICORN_TIMEOUTS": "GUNICORN_TIMEOUT", "GUNICORN_WORKER": "GUNICORN_WORKERS"}
    assert dict(misspelt({**dict.fromkeys(corrected, "3"), "GUNICORN_SERVICE_HOST": "10.0.0.1"})) == corrected


def test_configuration_file_wins_over_our_defaults_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "7")
    monkeypatch.setenv("PORT", "8123")
    own = composed(workers=3, max_requests=400)
    assert (own["workers"], own["bind"]) == (3, ["0.0.0.0:8123"])
    assert (own["timeout"], own["worker_class"], own["threads"]) == (60, "gthread", 4)
    assert own["max_requests_jitter"] == 100


def test_gunicorn_variable_wins_over_configuration_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_WORKERS", "9")
    monkeypatch.setenv("WEB_CONCURRENCY", "7")
    assert composed(workers=3)["workers"] == 9


def test_sync_workers_get_one_thread() -> None:
    assert composed(worker_class="sync")["threads"] == 1  # gunicorn would turn more threads into gthread


def test_hooks_of_file_run_together_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noting(word: str) -> Callable[[Any], None]:
        return lambda subject: order.append(f"{word} {subject}")

    ours = {name: noting("ours") for name in ("on_starting", "post_worker_init")}
    for name, hook in ours.items():
        hook.__name__ = name
        monkeypatch.setattr(gunicorn_conf, name, hook)
    theirs, post_fork = noting("theirs"), noting("post_fork")
    own = composed(on_starting=theirs, post_worker_init=theirs, post_fork=post_fork)
    own["on_starting"]("server")
    own["post_worker_init"]("worker")
    assert order == ["ours server", "theirs server", "theirs worker", "ours worker"]
    assert own["post_fork"] is post_fork
    assert own["on_reload"] is gunicorn_conf.on_reload


def test_composing_twice_runs_each_hook_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    own = composed(**composed(when_ready=lambda server: ran.append("theirs")))

    class Server:
        class cfg:
            preload_app = False

    own["when_ready"](Server)
    assert ran == ["theirs"]
    imported = {name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("_")}
    gunicorn_conf.compose(imported)  # as after "from flask_warmcache.gunicorn_conf import *"
    assert imported["when_ready"] is gunicorn_conf.when_ready
