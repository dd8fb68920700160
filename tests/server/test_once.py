"""One-time tasks: run by one of the workers, taken over from a dead one, never in the way of requests."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from typing import Any

import pytest

from tests.support.answers import Answer
from tests.support.places import Place
from tests.support.servers import OUR_CONF, Server, gunicorn_server
from tests.support.waiting import until

from .conftest import Make


@pytest.fixture
def once(make_place: Make) -> Make:
    """A place of the app with tasks."""

    def make(**options: object) -> Place:
        place = make_place(**options)
        place.app = "app_once"
        return place

    return make


def begun(place: Place, times: int = 1) -> list[int]:
    """Wait until the task was begun so many times, and return by which processes."""
    until(lambda: len(place.calls("begun")) >= times, lambda: f"attempt {times}: {place.calls('begun')}")
    return [call.pid for call in place.calls("begun")]


def section(server: Server) -> dict[str, Any]:
    # While one request computes the section for the first time, another gets a stand-in.
    told: dict[str, Any] = until(
        lambda: server.get("/api/cache/stats/tasks").json.get("fetch-models"), "the section of the tasks"
    )
    return told


def until_state(server: Server, state: str) -> dict[str, Any]:
    """Wait until every worker says so, and return what one of them says."""

    def all_say() -> Any:
        answers = server.next_of_each_worker("/api/cache/stats").values()
        told = [answer.json["tasks"].get("fetch-models", {"state": None}) for answer in answers]
        return told[0] if {one["state"] for one in told} == {state} else None

    said: dict[str, Any] = until(all_say, lambda: f"{state} everywhere: {section(server)}\n{server.log}")
    return said


# One run


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_one_of_four_workers_runs_the_task_and_the_others_skip_it(once: Make, preload: bool) -> None:
    place = once().with_gate()
    with gunicorn_server(place, *OUR_CONF, preload=preload) as server:
        (runner,) = begun(place)  # without any request
        assert runner in server.pids
        until(lambda: server.log.count("warmcache.task_skipped") == 3, lambda: f"three that skip:\n{server.log}")
        said = until_state(server, "running")
        assert (said["attempts"], said["last_error"]) == (1, None)
        for answer in server.next_of_each_worker("/plain").values():
            assert answer.status == 200, "a task is in the way of requests"
        place.gate.touch()
        said = until_state(server, "done")
        assert said["attempts"] == 1 and said["duration_seconds"] > 0
        assert len(place.calls("begun")) == len(place.calls("done")) == 1
        until(lambda: "warmcache.task_finished" in server.log, lambda: server.log)
        assert server.log.count("warmcache.task_started") == server.log.count("warmcache.task_finished") == 1


def test_a_worker_that_comes_later_does_not_run_it_again(once: Make) -> None:
    place = once()
    with gunicorn_server(place, *OUR_CONF, workers=2) as server:
        until_state(server, "done")
        victim = min(server.pids)
        os.kill(victim, signal.SIGKILL)
        server.until_gone(victim)
        until_state(server, "done")
        until(lambda: "'fetch-models' is done already" in server.log, lambda: f"one that skips:\n{server.log}")
        assert len(place.calls("begun")) == 1


def test_plain_gunicorn_runs_it_from_the_first_request_on(once: Make) -> None:
    place = once()
    with gunicorn_server(place) as server:
        assert not place.cache.exists()
        assert server.get("/plain").status == 200
        until_state(server, "done")
        assert len(place.calls("begun")) == 1


@pytest.mark.parametrize(
    "kind", [("-k", "gthread", "--threads", "3"), ("-k", "gevent")], ids=["gthread", "gevent"]
)
def test_a_task_that_computes_is_in_no_requests_way(once: Make, kind: tuple[str, ...]) -> None:
    if "gevent" in kind:
        pytest.importorskip("gevent")
    place = once(computes=1).with_gate()
    with gunicorn_server(place, *OUR_CONF, *kind, workers=1) as server:
        begun(place)
        for _ in range(5):
            assert server.get("/plain").status == 200
        assert section(server)["state"] == "running"
        assert server.get("/models?wait=0.1").status == 503
        place.gate.touch()
        assert server.get("/models?wait=15").status == 200
        assert len(place.calls("begun")) == 1


# Deaths, failures, and tasks that take too long


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_a_task_whose_worker_is_killed_is_taken_over(once: Make, preload: bool) -> None:
    place = once().with_gate()
    with gunicorn_server(place, *OUR_CONF, preload=preload) as server:
        (first,) = begun(place)
        os.kill(first, signal.SIGKILL)
        _, second = begun(place, 2)
        assert second != first
        place.gate.touch()
        assert until_state(server, "done")["attempts"] == 2
        assert [call.pid for call in place.calls("done")] == [second]
        assert len(place.calls("begun")) == 2


def test_a_task_cut_off_by_the_servers_end_is_run_by_the_next_server(once: Make) -> None:
    place = once().with_gate()
    with gunicorn_server(place, *OUR_CONF, workers=2) as server:
        begun(place)
        server.stop()  # within less than the graceful timeout that a task would use up
    with gunicorn_server(place, *OUR_CONF, workers=2) as server:
        begun(place, 2)
        place.gate.touch()
        until_state(server, "done")
    assert len(place.calls("done")) == 1


@pytest.mark.parametrize("error", ["OSError", "SystemExit"])
def test_a_failing_task_is_tried_again_and_never_ends_the_server(once: Make, error: str) -> None:
    place = once(**({"exits": 1} if error == "SystemExit" else {})).with_failing()
    place.failing.touch()
    with gunicorn_server(place, *OUR_CONF) as server:
        before = server.pids
        begun(place, 3)
        said = until_state(server, "failed")
        assert said["last_error"] == error and said["next_attempt_at"].endswith("Z")
        # The other worker has not necessarily read the record yet.
        until(lambda: server.get("/api/cache/stats").json["degraded"], "every worker's knowledge of the late task")
        assert server.get("/plain").status == 200
        place.failing.unlink()
        said = until_state(server, "done")
        assert said["attempts"] == len(place.calls("begun")) > 3
        assert len(place.calls("done")) == 1
        assert server.get("/api/cache/stats").json["degraded"] is False
        assert server.pids == before
        begins = [call.at for call in place.calls("begun")]
        pauses = [later - earlier for earlier, later in zip(begins, begins[1:], strict=False)]
        assert pauses[0] > 0.1 and pauses[2] > 0.5, f"no growing pause: {pauses}"


def test_task_past_its_budget_is_late_and_the_app_is_degraded(once: Make) -> None:
    place = once(timeout=0.3).with_gate()
    with gunicorn_server(place, *OUR_CONF) as server:
        said = until_state(server, "late")
        assert said["duration_seconds"] > 0.3
        # The other worker has not necessarily read the record yet.
        until(lambda: server.get("/api/cache/stats").json["degraded"], "every worker's knowledge of the late task")
        until(lambda: "warmcache.task_late" in server.log, "a line in the log")
        for answer in server.next_of_each_worker("/plain").values():
            assert answer.status == 200
        refused = server.get("/models?wait=15")
        assert refused.status == 503 and refused.app_time < 5, "a request waits for what may never end"
        assert refused.headers["Retry-After"] == "10"
        assert refused.json["state"] == "late"
        place.gate.touch()
        until_state(server, "done")
        assert server.get("/models").status == 200
        assert server.log.count("warmcache.task_late") == 1
        assert len(place.calls("begun")) == 1, "a second copy beside the one that was late"


# ensure


def test_ensure_has_the_task_run_in_the_first_request_that_needs_it(once: Make) -> None:
    place = once()
    with gunicorn_server(place) as server:
        answer = server.get("/models?wait=15")
        assert answer.json == {"ready": True}
        assert begun(place) == [answer.pid]
        assert len(place.calls("begun")) == 1


def test_ensure_waits_for_a_task_that_another_worker_runs(once: Make) -> None:
    place = once().with_gate()
    with gunicorn_server(place, *OUR_CONF) as server:
        (runner,) = begun(place)
        until_state(server, "running")
        refused: list[Answer] = []

        def another_was_asked() -> bool:
            refused.extend(server.ask_at_once("/models?wait=0.3", 8, linger=0.05))
            return {answer.pid for answer in refused} > {runner}

        until(another_was_asked, f"an answer by another worker than {runner}")
        assert {answer.status for answer in refused} == {503}
        assert min(answer.app_time for answer in refused) >= 0.3
        answer = refused[0]
        assert answer.headers["Content-Type"] == "application/json" and int(answer.headers["Retry-After"]) >= 1
        assert answer.json["task"] == "fetch-models" and answer.json["state"] == "running"
        assert str(place.folder) not in answer.body.decode()
        place.gate.touch()
        answers = server.ask_at_once("/models?wait=15", 8)
        assert {answer.status for answer in answers} == {200}
        assert len(place.calls("begun")) == 1


def test_ensure_refuses_at_once_while_a_failed_task_pauses(once: Make) -> None:
    place = once(retry_min=60).with_failing()
    place.failing.touch()
    with gunicorn_server(place, *OUR_CONF) as server:
        until_state(server, "failed")
        answers = server.ask_at_once("/models?wait=15", 8)
        assert {answer.status for answer in answers} == {503}
        assert max(answer.app_time for answer in answers) < 15
        assert 1 <= int(answers[0].headers["Retry-After"]) <= 75
        assert answers[0].json["state"] == "failed"
        assert len(place.calls("begun")) == 1, "requests tried what pauses"


# Deployments and the command


def run(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return place.flask("warmcache", "once", *arguments)


def test_what_was_run_at_deploy_time_is_run_by_no_worker(once: Make) -> None:
    place = once()
    done = run(place)
    assert done.returncode == 0 and done.stdout.startswith("fetch-models: done in "), done
    again = run(place, "fetch-models")
    assert (again.returncode, again.stdout) == (0, "fetch-models: already done in this deployment\n")
    with gunicorn_server(place, *OUR_CONF) as server:
        until_state(server, "done")
        until(lambda: server.log.count("is done already") >= 4, lambda: f"four that skip:\n{server.log}")
        assert server.get("/models").status == 200
    assert len(place.calls("begun")) == 1
    assert json.loads(run(place, "--again", "--json").stdout)["ran"] is True
    assert len(place.calls("begun")) == 2


def test_another_release_runs_it_again_and_the_same_does_not(once: Make) -> None:
    runs = []
    for release in ("1.0", "1.0", "1.1", "1.0"):
        place = once(release=release)
        with gunicorn_server(place, *OUR_CONF, workers=2) as server:
            until_state(server, "done")
        runs.append(len(place.calls("done")))
    assert runs == [1, 1, 2, 2], "by release: the last one goes back to what was done"


def test_the_command_says_by_its_exit_code_how_it_went(once: Make) -> None:
    place = once().with_failing()
    place.failing.touch()
    failed = run(place, "--json")
    assert failed.returncode == 1
    assert "fetch-models failed: OSError: no models" in failed.stderr
    told = json.loads(failed.stdout)
    assert (told["task"], told["state"], told["last_error"], told["ran"]) == (
        "fetch-models", "failed", "OSError", True,
    )  # fmt: skip
    place.failing.unlink()
    done = run(place, "--json")  # at once: who asks for it does not wait for a pause to end
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["state"], told["attempts"], told["last_error"]) == ("done", 2, None)
    unknown = run(place, "nothing")
    assert unknown.returncode == 2 and "Declared: fetch-models." in unknown.stderr


def test_the_command_leaves_a_task_to_who_runs_it_and_waits_if_told(once: Make) -> None:
    place = once(timeout=0.1).with_gate()
    with gunicorn_server(place, *OUR_CONF, workers=1) as server:
        begun(place)
        busy = run(place, "--json")
        assert busy.returncode == 3 and "--wait" in busy.stderr
        assert json.loads(busy.stdout)["ran"] is False
        command = place.flask_command("warmcache", "once", "--wait")
        with place.started(command, stderr=subprocess.PIPE) as waiting:
            assert waiting.stderr is not None
            lines: list[str] = []
            while not any("it continues" in line for line in lines):
                lines.append(waiting.stderr.readline())
                assert lines[-1], lines
            place.gate.touch()
            out, _ = waiting.communicate(timeout=120)
        assert (waiting.returncode, out) == (0, "fetch-models: already done in this deployment\n")
        until_state(server, "done")
    assert len(place.calls("begun")) == 1


def test_on_a_terminal_the_command_shows_how_long_the_task_runs(once: Make) -> None:
    place = once(timeout=7).with_gate()
    leader, terminal = pty.openpty()
    command = place.flask_command("warmcache", "once")
    shown = b""
    with place.started(command, stderr=terminal) as process, open(leader, "rb", buffering=0) as screen:
        os.close(terminal)
        while b"1/7\r" not in shown.replace(b" ", b""):
            shown += screen.read(1000)  # an error when the command has ended without that
        place.gate.touch()
        assert process.wait(60) == 0
