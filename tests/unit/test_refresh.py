"""The query parameter ``refresh=true``, and parameters that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize(
    ("query", "parameter", "allowed"),
    [
        ("filter=none", "filter", ["all", "short"]),
        ("filter=<script>", "filter", ["all", "short"]),
        ("sort=size", "sort", ["name", "-name"]),
        ("search=x", "search", []),
        ("page=x", "page", None),
        ("per_page=0", "per_page", None),
        ("refresh=perhaps", "refresh", ["true", "false"]),
    ],
)
def test_wrong_parameter_is_a_400_that_names_allowed_values(
    site: Site, query: str, parameter: str, allowed: list[str] | None
) -> None:
    site.rebuild()
    answer = site.client.get(f"/files?{query}")
    body = answer.get_json()
    assert (answer.status_code, answer.headers["Cache-Control"]) == (400, "no-store")
    assert (body["parameter"], body.get("allowed")) == (parameter, allowed)
    assert parameter in body["error"] or parameter == "search"
    assert "<script>" not in answer.text  # it does not repeat the query


def test_refused_request_changes_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, refresh_interval=0)

    def stamps() -> dict[str, tuple[int, int]]:
        stats = {path.name: path.stat() for path in site.state.store.folder.iterdir()}
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}

    site.rebuild()
    before = stamps()
    assert site.client.get("/files?refresh=true&filter=none").status_code == 400
    assert site.client.get("/files?refresh=true&refresh=x&page=x").status_code == 400
    assert stamps() == before
    assert site.client.get("/files").get_json()["cache_rebuilding"] is False


def test_refresh_asks_for_rebuild_once(tmp_path: Path) -> None:
    site = Site(tmp_path, refresh_interval=0)
    site.rebuild()
    index = site.state.store.folder / "files.index"
    assert site.client.get("/files?refresh=true").get_json()["cache_rebuilding"] is True
    marked = index.stat()
    assert marked.st_mtime_ns < 10**9
    for _ in range(5):
        assert site.client.get("/files?refresh=1").get_json()["cache_rebuilding"] is True
    assert index.stat().st_ctime_ns == marked.st_ctime_ns  # the request joined, and wrote nothing
    site.keeper.tick()


@pytest.mark.parametrize(
    ("query", "config"),
    [
        pytest.param("refresh=true", {"refresh_interval": 1000}, id="a young list"),
        pytest.param("refresh=true", {"refresh_interval": 0, "allow_refresh": False}, id="disabled"),
        *((f"refresh={no}", {"refresh_interval": 0}) for no in ("false", "0", "no", "")),
    ],
)
def test_refresh_is_not_asked_for(tmp_path: Path, query: str, config: dict[str, Any]) -> None:
    site = Site(tmp_path, **config)
    site.rebuild()
    answer = site.client.get(f"/files?{query}")
    assert (answer.status_code, answer.get_json()["cache_rebuilding"]) == (200, False)


def test_refresh_of_cold_list_changes_nothing(site: Site) -> None:
    assert site.client.get("/files?refresh=true").get_json()["cache_rebuilding"] is True
    assert not site.state.store.folder.exists()


def test_refresh_in_read_only_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, refresh_interval=0)
    site.rebuild()

    def read_only(*arguments: Any, **options: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("os.utime", read_only)
    answer = site.client.get("/files?refresh=true")
    assert (answer.status_code, answer.get_json()["files"]) == (200, site.items)
