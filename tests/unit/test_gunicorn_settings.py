"""Which values gunicorn's settings get: from the machine, the environment, or a configuration file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
from flask_warmcache.host.gunicorn_sources import misspelt
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


def test_workers_fit_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4, 16_000 * MIB)
    assert defaults()["workers"] == (5, "default, 4 cores")
    machine(monkeypatch, 4, 700 * MIB)
    assert defaults()["workers"] == (3, "default, 700 MiB of memory")
    machine(monkeypatch, 1, None)
    assert defaults()["workers"] == (2, "default, 1 core")
    machine(monkeypatch, 2, 100 * MIB)
    assert defaults()["workers"].value == 1
    machine(monkeypatch, 128, None)
    assert defaults()["workers"].value == 12


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
    mounts.write_text(f"tmpfs {tmp_path} tmpfs rw 0 0\n")
    assert shared_memory(str(tmp_path), str(mounts)) == str(tmp_path)
    mounts.write_text(f"/dev/sda1 {tmp_path} ext4 rw 0 0\n")
    assert shared_memory(str(tmp_path), str(mounts)) is None
    mounts.write_text(f"tmpfs {tmp_path / 'gone'} tmpfs rw 0 0\n")
    assert shared_memory(str(tmp_path / "gone"), str(mounts)) is None
    assert shared_memory(str(tmp_path), str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        (
            "GUNICORN_TIMEOUT",
            "abc",
            "GUNICORN_TIMEOUT must be a whole number, 0 or more, not 'abc'. Correct it, or",
        ),
        ("GUNICORN_TIMEOUT", "-1", "GUNICORN_TIMEOUT must be a whole number, 0 or more, not '-1'. Correct it, or"),
        ("GUNICORN_WORKERS", "0", "GUNICORN_WORKERS must be at least 1, not '0'"),
        ("GUNICORN_THREADS", "0", "GUNICORN_THREADS must be at least 1, not '0'"),
        ("GUNICORN_BIND", "0.0.0.0:80,:", "GUNICORN_BIND must be addresses like 0.0.0.0:8000, not '0.0.0.0:80,:'"),
        ("GUNICORN_LOG_LEVEL", "loud", "GUNICORN_LOG_LEVEL must be one of debug, info, .*, not 'loud'"),
        ("GUNICORN_WORKER_TMP_DIR", "/no/such", "GUNICORN_WORKER_TMP_DIR must be a folder, not '/no/such'"),
        ("GUNICORN_PRELOAD_APP", "maybe", "GUNICORN_PRELOAD_APP must be true or false, not 'maybe'"),
        ("GUNICORN_WORKER_CLASS", "gthred", "GUNICORN_WORKER_CLASS must be one of gunicorn's worker classes"),
        ("GUNICORN_USER", "nobody-of-that-name", "GUNICORN_USER is refused, not 'nobody-of-that-name'"),
    ],
)
def test_wrong_variable_is_refused_by_name(variable: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_by_environment({variable: text})


@pytest.mark.parametrize("text", ["0", "many", "-2", "1.5"])
def test_wrong_number_of_workers_or_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=f"WEB_CONCURRENCY must be .*, not '{text}'"):
        platform_choices({"WEB_CONCURRENCY": text})
    with pytest.raises(ValueError, match=f"PORT must be .*, not '{text}'"):
        platform_choices({"PORT": text})
    problems = list(wrong_variables({"PORT": text, "GUNICORN_TIMEOUT": "soon"}))
    assert (
        len(problems) == 2
        and problems[0].startswith("PORT must be")
        and problems[1].startswith("GUNICORN_TIMEOUT must be")
    )


def test_empty_port_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")  # gunicorn would make "0.0.0.0:" of it, and fail
    own: dict[str, Any] = {}
    gunicorn_conf.compose(own)
    assert own["bind"] == ["127.0.0.1:8000"]
    monkeypatch.setenv("PORT", "81")
    own.clear()
    gunicorn_conf.compose(own)
    assert own["bind"] == ["0.0.0.0:81"]


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


def test_misspelt_variable_is_named() -> None:
    environ = {"GUNICORN_TIMEOUTS": "300", "GUNICORN_WORKER": "3", "GUNICORN_SERVICE_HOST": "10.0.0.1"}
    assert misspelt(environ) == [
        ("GUNICORN_TIMEOUTS", "GUNICORN_TIMEOUT"),
        ("GUNICORN_WORKER", "GUNICORN_WORKERS"),
    ]


def test_configuration_file_wins_over_our_defaults_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "7")
    monkeypatch.setenv("PORT", "8123")
    own: dict[str, Any] = {"workers": 3, "max_requests": 400}
    gunicorn_conf.compose(own)
    assert (own["workers"], own["bind"]) == (3, ["0.0.0.0:8123"])
    assert (own["timeout"], own["worker_class"], own["threads"]) == (60, "gthread", 4)
    assert own["max_requests_jitter"] == 100


def test_gunicorn_variable_wins_over_configuration_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_WORKERS", "9")
    monkeypatch.setenv("WEB_CONCURRENCY", "7")
    own: dict[str, Any] = {"workers": 3}
    gunicorn_conf.compose(own)
    assert own["workers"] == 9


def test_sync_workers_get_one_thread() -> None:
    own: dict[str, Any] = {"worker_class": "sync"}
    gunicorn_conf.compose(own)
    assert own["threads"] == 1  # gunicorn would turn more threads into gthread


def test_hooks_of_file_run_together_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noting(word: str) -> Callable[[Any], None]:
        return lambda subject: order.append(f"{word} {subject}")

    ours = {name: noting("ours") for name in ("on_starting", "post_worker_init")}
    for name, hook in ours.items():
        hook.__name__ = name
        monkeypatch.setattr(gunicorn_conf, name, hook)
    own: dict[str, Any] = {
        "on_starting": noting("theirs"),
        "post_worker_init": noting("theirs"),
        "post_fork": noting("post_fork"),
    }
    post_fork = own["post_fork"]
    gunicorn_conf.compose(own)
    own["on_starting"]("server")
    own["post_worker_init"]("worker")
    assert order == ["ours server", "theirs server", "theirs worker", "ours worker"]
    assert own["post_fork"] is post_fork
    assert own["on_reload"] is gunicorn_conf.on_reload


def test_composing_twice_runs_each_hook_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    own: dict[str, Any] = {"when_ready": lambda server: ran.append("theirs")}
    gunicorn_conf.compose(own)
    gunicorn_conf.compose(own)

    class Server:
        class cfg:
            preload_app = False

    own["when_ready"](Server)
    assert ran == ["theirs"]
    imported = {name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("_")}
    gunicorn_conf.compose(imported)  # as after "from flask_warmcache.gunicorn_conf import *"
    assert imported["when_ready"] is gunicorn_conf.when_ready
