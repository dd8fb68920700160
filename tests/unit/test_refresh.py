"""The query parameter ``refresh=true``, and parameters that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import Site, state_of


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize(
    ("query", "parameter", "allowed"),
    [
        ("filter=none", "filter", ["all", "short"]),
        ("sort=size", "sort", ["name", "-name"]),
        ("search=x", "search", []),
        ("page=x", "page", None),
        ("per_page=0", "per_page", None),
        ("refresh=perhaps", "refresh", ["true", "false"]),
    ],
)
def test_wrong_parameter_is_a_400_that_names_the_allowed_values(
    site: Site, query: str, parameter: str, allowed: list[str] | None
) -> None:
    site.rebuild()
    answer = site.client.get(f"/files?{query}")
    body = answer.get_json()
    assert (answer.status_code, answer.headers["Cache-Control"]) == (400, "no-store")
    assert (body["parameter"], body.get("allowed")) == (parameter, allowed)
    assert parameter in body["error"] or parameter == "search"


def test_refused_request_changes_nothing(site: Site) -> None:
    site.rebuild()
    state_of(site.app).settings.__dict__["refresh_interval"] = 0.0
    before = {path.name: path.stat() for path in state_of(site.app).store.folder.iterdir()}
    assert site.client.get("/files?refresh=true&filter=none").status_code == 400
    assert site.client.get("/files?refresh=true&refresh=x&page=x").status_code == 400
    after = {path.name: path.stat() for path in state_of(site.app).store.folder.iterdir()}
    assert {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in after.items()} == {
        name: (stat.st_ino, stat.st_mtime_ns) for name, stat in before.items()
    }
    assert site.client.get("/files").get_json()["cache_rebuilding"] is False


def test_refusal_does_not_repeat_the_query(site: Site) -> None:
    assert "<script>" not in site.client.get("/files?filter=<script>").text


def test_refresh_asks_for_a_rebuild_once(tmp_path: Path) -> None:
    site = Site(tmp_path, refresh_interval=0)
    site.rebuild()
    index = state_of(site.app).store.folder / "files.index"
    assert site.client.get("/files?refresh=true").get_json()["cache_rebuilding"] is True
    marked = index.stat()
    assert marked.st_mtime_ns < 10**9
    for _ in range(5):
        assert site.client.get("/files?refresh=1").get_json()["cache_rebuilding"] is True
    assert index.stat().st_ctime_ns == marked.st_ctime_ns  # the request joined, and wrote nothing
    state_of(site.app).keeper.tick()


def test_young_list_is_not_refreshed(tmp_path: Path) -> None:
    site = Site(tmp_path, refresh_interval=1000)
    site.rebuild()
    assert site.client.get("/files?refresh=true").get_json()["cache_rebuilding"] is False


def test_refresh_can_be_disabled(tmp_path: Path) -> None:
    site = Site(tmp_path, refresh_interval=0, allow_refresh=False)
    site.rebuild()
    answer = site.client.get("/files?refresh=true")
    assert (answer.status_code, answer.get_json()["cache_rebuilding"]) == (200, False)


def test_refresh_of_a_cold_list_changes_nothing(site: Site) -> None:
    assert site.client.get("/files?refresh=true").get_json()["cache_rebuilding"] is True
    assert not state_of(site.app).store.folder.exists()


def test_refresh_false_does_not_ask_for_a_rebuild(tmp_path: Path) -> None:
    site = Site(tmp_path, refresh_interval=0)
    site.rebuild()
    for no in ("false", "0", "no", ""):
        assert site.client.get(f"/files?refresh={no}").get_json()["cache_rebuilding"] is False


def test_refresh_in_a_read_only_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, refresh_interval=0)
    site.rebuild()

    def read_only(*arguments: Any, **options: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("os.utime", read_only)
    answer = site.client.get("/files?refresh=true")
    assert (answer.status_code, answer.get_json()["files"]) == (200, site.items)
