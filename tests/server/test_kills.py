"""Builders that die by SIGKILL, in the middle of their work."""

from __future__ import annotations

import os
import signal
import time

from tests.support.answers import backwards, check_whole
from tests.support.places import Place
from tests.support.servers import Readers, gunicorn_server
from tests.support.waiting import until


def test_another_worker_takes_over_when_the_building_one_is_killed(gated: Place) -> None:
    gated.env["TEST_RUNNER"] = (
        "thread"  # auto would go on in a child, which these readers leave little to run with
    )
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        lock = gated.cache / "files.lock"
        inode = lock.stat().st_ino
        server.next_of_each_worker()
        gated.gate.unlink()
        with Readers(server, clients=3) as readers:
            server.get("/invalidate", "POST")
            takeovers = []
            for nth in (2, 3):  # the builder, then the one that took over
                builder = gated.builder_at_gate(nth)
                readers.wait_for(20)
                killed_at = time.monotonic()
                os.kill(builder.pid, signal.SIGKILL)
                successor = gated.until_built(nth + 1)
                takeovers.append(successor.at - killed_at)
                assert successor.pid != builder.pid
            gated.builder_at_gate(4)
            readers.wait_for(20)
            gated.gate.touch()
            until(lambda: readers.answers[-1].generation > old.generation, "the new list")
            readers.wait_for(40)
        print(f"\ntakeovers after {[round(seconds, 3) for seconds in takeovers]} s, {len(readers.answers)} reads")
        assert max(takeovers) < 20.0, "a lock had to expire"
        for answer in readers.answers:
            assert check_whole(answer) >= 60
            assert answer.generation >= old.generation
        assert backwards(readers.answers) == []
        assert len({answer.generation for answer in readers.answers}) == 2
        assert lock.stat().st_ino == inode, "the lock file was replaced"
        assert len(gated.calls("source")) == 4, "a killed build was followed by more than one"
        until(lambda: len(server.pids) == 4, "four workers again")
        assert {len(answer.json["files"]) for answer in server.next_of_each_worker().values()} == {
            check_whole(server.get())
        }


def test_a_process_that_the_killed_builder_had_forked_does_not_keep_the_lock(gated: Place) -> None:
    gated.env["TEST_FORKS"] = "1"
    with gunicorn_server(gated, workers=2) as server:
        server.next_of_each_worker()
        builder = gated.builder_at_gate()
        child = gated.calls("child")[0].pid
        os.kill(builder.pid, signal.SIGKILL)
        successor = gated.builder_at_gate(2)
        assert successor.pid != builder.pid
        assert os.path.exists(f"/proc/{child}"), "nothing was left that could have kept the lock"
        gated.gate.touch()
        check_whole(server.warm_up())
        # Nor when it was published: the children of the finished build live, too.
        server.get("/invalidate", "POST")
        until(lambda: len(gated.calls("source")) == 3, "another build")
        server.warm_up()
