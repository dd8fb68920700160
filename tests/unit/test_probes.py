"""The probes: ``livez`` reads nothing, ``readyz`` is 200 by default and at its deadline, ``startupz`` waits."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, abort, redirect, url_for
from werkzeug.test import TestResponse

from flask_warmcache import SettingError, WarmCache
from flask_warmcache.testing import inline_rebuilds
from flask_warmcache.web import gate
from tests.support.apps import Shop, make_app
from tests.support.late_blueprints import LateShop
from tests.support.waiting import until

PROBES = ("livez", "readyz", "startupz")


def ask(app: Flask, probe: str) -> TestResponse:
    return app.test_client().get(f"/api/cache/{probe}")


def test_livez_starts_nothing_and_writes_nothing(tmp_path: Path, shop: Shop) -> None:
    answer = ask(shop.app, "livez")
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert not shop.state.is_started
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("probe", PROBES)
def test_hooks_of_app_do_not_affect_probes(shop: Shop, probe: str) -> None:
    @shop.app.before_request
    def login() -> Any:
        return redirect("/login")

    @shop.app.after_request
    def broken(response: Any) -> Any:
        abort(500)

    assert ask(shop.app, probe).status_code == 200
    assert shop.app.test_client().get("/api/cache/stats").status_code != 200


def test_app_is_ready_while_its_lists_are_cold(shop: Shop) -> None:
    shop.gate.clear()
    answer = ask(shop.app, "readyz")
    assert answer.status_code == 200
    assert answer.get_json() == {"status": "ready", "lists": {"files": "cold"}, "startup": {}, "waiting_for": []}
    assert shop.state.is_started, "a probe starts the keeper, as any request does"
    shop.gate.set()


@pytest.mark.parametrize("probe", ["readyz", "startupz"])
def test_app_whose_folder_cannot_be_used_is_degraded(tmp_path: Path, shop: Shop, probe: str) -> None:
    (tmp_path / "cache").write_text("not a folder")
    answer = ask(shop.app, probe)
    assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
    (tmp_path / "cache").unlink()
    assert ask(shop.app, probe).get_json()["status"] == "ready"


def test_strict_app_becomes_ready_when_its_lists_are_warm_and_stays_ready(tmp_path: Path) -> None:
    shop = Shop(tmp_path, ready_strict=True, runner="external")
    answer = ask(shop.app, "readyz")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "2"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.get_json()["status"] == "waiting"
    assert answer.get_json()["waiting_for"] == ["list files"]
    shop.state.rebuilder.rebuild_now("files")
    assert ask(shop.app, "readyz").get_json()["status"] == "ready"
    shop.state.store.publish_cold("files")
    again = ask(shop.app, "readyz")
    assert (again.status_code, again.get_json()["lists"]) == (200, {"files": "cold"})


def test_strict_app_is_degraded_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(tmp_path, ready_strict=True, ready_deadline=600.0, runner="external")
    assert ask(shop.app, "readyz").status_code == 503
    later = time.monotonic() + 601
    monkeypatch.setattr(gate, "time", SimpleNamespace(time=time.time, monotonic=lambda: later))
    answer = ask(shop.app, "readyz")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
    assert answer.get_json()["waiting_for"] == ["list files"]


def test_replacing_worker_does_not_reset_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMCACHE_SERVER_STARTED", str(time.time_ns() - 3600 * 10**9))
    shop = Shop(tmp_path, ready_strict=True, ready_deadline=600.0, runner="external")
    assert ask(shop.app, "readyz").get_json()["status"] == "degraded"


def test_strict_app_does_not_wait_for_list_without_source(tmp_path: Path) -> None:
    app = make_app(tmp_path, ready_strict=True, runner="external")
    WarmCache(app).warm_list("files", key="path")  # without a source
    answer = ask(app, "readyz")
    assert (answer.status_code, answer.get_json()["lists"]) == (200, {"files": "failed"})


def test_startupz_waits_for_deferred_blueprints_and_readyz_does_not(quick_shop: LateShop) -> None:
    go = quick_shop.slow("reports")
    answer = ask(quick_shop.app, "startupz")
    assert answer.status_code == 503
    assert answer.get_json()["waiting_for"] == ["blueprints: 0 of 1"]
    assert answer.get_json()["startup"] == {"blueprints": {"done": 0, "total": 1}}
    assert ask(quick_shop.app, "readyz").status_code == 200
    go.touch()
    quick_shop.until_loaded()
    assert ask(quick_shop.app, "startupz").get_json()["status"] == "ready"


def test_startupz_waits_for_one_time_tasks(tmp_path: Path, live: None) -> None:
    shop = Shop(tmp_path, runner="external")
    go = threading.Event()
    shop.warmcache.once("create-tables")(lambda: go.wait(120))
    assert ask(shop.app, "startupz").get_json()["startup"] == {"tasks": {"done": 0, "total": 1}}
    go.set()
    assert until(lambda: ask(shop.app, "startupz").status_code == 200)


@pytest.mark.parametrize("probe", PROBES)
def test_probes_answer_under_api_prefix(tmp_path: Path, probe: str) -> None:
    app = make_app(tmp_path, api_prefix="/_lists")
    WarmCache(app)
    with app.test_request_context():
        assert url_for(f"warmcache.{probe}") == f"/_lists/{probe}"
    client = app.test_client()
    assert client.get(f"/_lists/{probe}").status_code == 200
    assert client.get(f"/api/cache/{probe}").status_code == 404
    assert client.post(f"/_lists/{probe}").status_code == 405
    head = client.head(f"/_lists/{probe}")
    assert (head.status_code, head.data) == (200, b"")
    assert int(head.headers["Content-Length"]) > 10


def test_app_with_unusable_folder_is_ready_but_degraded(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise OSError("no such device")

    monkeypatch.setattr(shop.app.extensions["warmcache"], "open", fails)
    answer = ask(shop.app, "readyz")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
    assert "warmcache.not_started" in caplog.text


def test_probes_answer_inside_inline_rebuilds(tmp_path: Path) -> None:
    shop = Shop(tmp_path, ready_strict=True)
    with inline_rebuilds(shop.app):
        assert ask(shop.app, "livez").status_code == 200
        assert ask(shop.app, "readyz").status_code == 200
    assert not shop.state.is_started


def test_wrong_probe_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="WARMCACHE_READY_STRICT must be True or False"):
        WarmCache(make_app(tmp_path, ready_strict="yes"))
    with pytest.raises(SettingError, match="WARMCACHE_READY_DEADLINE must be a number of seconds above 0"):
        WarmCache(make_app(tmp_path, ready_deadline=0))
