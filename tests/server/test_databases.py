"""``db.create_all()`` as a one-time task: four workers, one of them makes the tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.needs import need_module
from tests.support.places import Place
from tests.support.servers import OUR_CONF, Server, gunicorn_server
from tests.support.waiting import until

from .conftest import Make
from .postgres import Cluster, cluster


@pytest.fixture
def postgres() -> Iterator[Cluster]:
    """A server on which the two tables are made once, whatever the test does."""
    need_module("psycopg")
    with cluster() as running:
        yield running
        assert len(running.tables_created) == 2, running.log
        assert "ERROR" not in running.log


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path / 'comics.db'}"
    running: Cluster = request.getfixturevalue("postgres")
    return running.url


def place_with(make_place: Make, database: str) -> Place:
    need_module("flask_sqlalchemy")
    place = make_place(database=database)
    place.app = "app_database"
    return place


def check_works(server: Server) -> None:
    """Every worker reads and writes."""
    for number in range(8):
        assert server.get(f"/comics?name=c{number}", "POST").status == 200
    answers = server.ask_at_once("/comics", 12)
    assert [answer.json for answer in answers] == [{"count": 8}] * 12


def created(place: Place) -> int:
    return len(place.calls("create"))


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_four_workers_make_the_tables_once(make_place: Make, database: str, preload: bool) -> None:
    place = place_with(make_place, database)
    with gunicorn_server(place, *OUR_CONF, preload=preload) as server:
        until(lambda: created(place) == 2, lambda: f"two tables without any request:\n{server.log}")
        check_works(server)
        assert created(place) == 2
        assert "ERROR" not in server.log


def test_four_first_requests_at_once_find_their_tables(make_place: Make, database: str) -> None:
    place = place_with(make_place, database)
    with gunicorn_server(place) as server:
        answers = server.ask_at_once("/comics", 12)
        assert [answer.json for answer in answers] == [{"count": 0}] * 12, server.log


def test_a_deploy_step_makes_the_tables_and_the_workers_none(make_place: Make, database: str) -> None:
    place = place_with(make_place, database)
    done = place.flask("warmcache", "once")
    assert done.returncode == 0, done.stderr
    assert created(place) == 2
    with gunicorn_server(place, *OUR_CONF) as server:
        check_works(server)
    assert created(place) == 2


def test_a_database_that_is_down_is_waited_for_and_ends_no_server(make_place: Make, postgres: Cluster) -> None:
    moved = f"{postgres.url}-moved"
    place = place_with(make_place, moved)
    with gunicorn_server(place, *OUR_CONF) as server:

        def told() -> str:
            section = server.get("/api/cache/stats").json["tasks"]["create-tables"]
            return str(section["last_error"])

        until(lambda: told() == "OperationalError", lambda: f"a failed task:\n{server.log}")
        assert server.get("/comics").status == 503
        folder = moved.partition("host=")[2]
        os.symlink(folder.removesuffix("-moved"), folder)  # the database comes up
        try:
            until(lambda: server.get("/comics").status == 200, lambda: f"tables:\n{server.log}")
        finally:
            os.unlink(folder)
