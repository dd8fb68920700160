"""Our gunicorn configuration in a real server: what is in force, where it came from, and what the start says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gunicorn
import pytest

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.servers import OUR_CONF, Server, gunicorn_server
from tests.support.waiting import until

# Before 24 a gthread worker that ends drops what has just been connected to it.
KEEPS_CONNECTIONS = gunicorn.version_info >= (24,)
MAX_REQUESTS = 20_000 if KEEPS_CONNECTIONS else 0
SMALL_CONF = ("-c", "python:flask_warmcache.gunicorn_small")
OWN = """
import os
timeout = 45
worker_class = "sync"
max_requests = 100

def post_worker_init(worker):
    worker.log.info("own hook, before the keeper")

def on_starting(server):
    server.log.info("own start at %s", os.environ["WARMCACHE_SERVER_STARTED"])

from flask_warmcache.gunicorn_conf import compose
compose(globals())
"""


def in_force(server: Server) -> dict[str, tuple[str, str]]:
    """The one line of the start: each setting's value and source."""
    lines = [line for line in server.log.splitlines() if "Settings in force: " in line]
    assert len(lines) == 1, server.log
    told = re.findall(r"(\w+)=(\S+) \(([^)]*)\)", lines[0])
    return {name: (value, source) for name, value, source in told}


def check_config(place: Place, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    place.env |= environ
    return place.run([sys.executable, "-m", "gunicorn", "--check-config", *arguments, "app_files:app"])


def test_the_start_says_in_one_line_what_is_in_force_and_where_it_came_from(place: Place) -> None:
    place.env |= {"GUNICORN_TIMEOUT": "50", "GUNICORN_CMD_ARGS": "--keep-alive 7"}
    with gunicorn_server(place, *OUR_CONF, workers=2) as server:
        told = in_force(server)
        assert told["timeout"] == ("50", "GUNICORN_TIMEOUT")
        assert told["keepalive"] == ("7", "GUNICORN_CMD_ARGS")
        assert told["workers"] == ("2", "command line")
        assert told["worker_class"] == ("gthread", "default")
        assert told["graceful_timeout"] == ("25", "default")
        assert told["max_requests"] == (str(MAX_REQUESTS), "default")
        assert told["max_requests_jitter"] == (str(MAX_REQUESTS // 4), "default")
        assert "not in force" not in server.log
        assert len(server.pids) == 2
        check_whole(server.warm_up())


def test_a_variable_that_the_command_line_overrules_is_named(place: Place) -> None:
    place.env |= {"GUNICORN_TIMEOUT": "300", "GUNICORN_TIMEOUTS": "200"}
    with gunicorn_server(place, *OUR_CONF, "-t", "30", workers=1) as server:
        assert "GUNICORN_TIMEOUTS is no setting of gunicorn's; GUNICORN_TIMEOUT is" in server.log
        assert in_force(server)["timeout"] == ("30", "command line")
        assert "GUNICORN_TIMEOUT=300 is not in force: timeout is 30 (command line)" in server.log


def test_sync_workers_asked_for_on_the_command_line_stay_sync(place: Place) -> None:
    with gunicorn_server(place, *OUR_CONF, "-k", "sync", "--max-requests", "40", workers=1) as server:
        told = in_force(server)
        assert told["worker_class"] == ("sync", "command line")
        assert told["threads"] == ("1", "default")
        assert told["max_requests_jitter"] == ("10", "default")
        assert "Using worker: sync" in server.log
        check_whole(server.warm_up())


@pytest.mark.parametrize("variable", ["GUNICORN_TIMEOUT", "GUNICORN_WORKER_CLASS", "PORT"])
def test_a_wrong_variable_stops_the_start_and_is_named(place: Place, variable: str) -> None:
    ended = check_config(place, *OUR_CONF, **{variable: "nonsense"})
    assert ended.returncode == 1
    assert f"Error: {variable} must be" in ended.stderr
    assert "'nonsense'. Correct it, or take it out of the environment." in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_number_of_workers_that_ends_gunicorn_before_our_configuration_is_named_by_the_doctor(
    place: Place,
) -> None:
    place.env |= {"WEB_CONCURRENCY": "2 workers", "GUNICORN_CMD_ARGS": "--timeout=soon"}
    ended = check_config(place, *OUR_CONF)
    assert ended.returncode == 1
    assert "WEB_CONCURRENCY must" not in ended.stderr, "gunicorn got as far as our configuration"
    told = place.flask("warmcache", "doctor", "--json")
    assert told.returncode == 2, told.stderr
    refused = [one for one in json.loads(told.stdout)["findings"] if one["check"] == "environment.refused"]
    assert [one["level"] for one in refused] == ["fault", "fault"]
    assert (
        refused[0]["what"].startswith("WEB_CONCURRENCY must be a whole number")
        and "'2 workers'" in refused[0]["what"]
    )
    assert "invalid int value: 'soon'" in refused[1]["what"]


def test_an_own_file_keeps_its_values_and_hooks_and_gets_ours(place: Place) -> None:
    own = place.folder / "own.conf.py"
    own.write_text(OWN)
    with gunicorn_server(place, "-c", os.fspath(own), workers=1) as server:
        told = in_force(server)
        assert told["timeout"] == ("45", "configuration file")
        assert told["max_requests"] == ("100", "configuration file")
        assert told["max_requests_jitter"] == ("25", "default")
        assert re.search(r"own start at \d+", server.log)
        until(lambda: "own hook, before the keeper" in server.log, "the own hook")
        until((place.cache / "files.index").exists, lambda: f"a list without any request:\n{server.log}")
        server.send(signal.SIGHUP)
        until(lambda: server.log.count("Settings in force") == 2, lambda: f"a reload:\n{server.log}")
        until(lambda: server.log.count("own hook") == 2, "a new worker")
        check_whole(server.warm_up())


def test_an_own_file_without_our_last_line_is_left_alone(place: Place, tmp_path: Path) -> None:
    own = tmp_path / "own.conf.py"
    own.write_text("timeout = 45\n")
    with gunicorn_server(place, "-c", os.fspath(own), workers=1) as server:
        assert "Settings in force" not in server.log


def test_the_small_configuration_loads_the_app_once_and_replaces_a_worker_at_once(place: Place) -> None:
    with gunicorn_server(place, *SMALL_CONF, "-w", "2", workers=2, preload=True) as server:
        told = in_force(server)
        assert (told["preload_app"][0], told["worker_class"][0]) == ("True", "gthread")
        check_whole(server.warm_up())
        assert len(place.calls("loaded")) == 1
        before = server.pids
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(server.pids - before) == 1, "a new worker")
        check_whole(server.warm_up())
        assert len(place.calls("loaded")) == 1


@pytest.mark.skipif(
    not KEEPS_CONNECTIONS, reason="gthread drops connections when a worker ends, before gunicorn 24"
)
def test_worker_that_reaches_max_requests_is_replaced_and_all_requests_are_answered(place: Place) -> None:
    place.env["GUNICORN_MAX_REQUESTS"] = "8"
    with gunicorn_server(place, *OUR_CONF, workers=2) as server:
        assert in_force(server)["max_requests"] == ("8", "GUNICORN_MAX_REQUESTS")
        first = server.pids
        server.warm_up()
        until(lambda: server.get().status == 200 and not first & server.pids, "other workers")
        check_whole(server.warm_up())
