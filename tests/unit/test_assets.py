"""The files that browsers fetch: compressed, cached as long as they do not change, and no other files."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from flask_warmcache.web import assets
from tests.support.apps import Shop
from tests.support.processes import CHECKOUT, run_python

PATH = "/api/cache/static/warmcache.js"
SCRIPT = CHECKOUT / "static" / "warmcache.js"
PACKED = {"Accept-Encoding": "br, gzip;q=0.5"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    with Shop(tmp_path).app.test_client() as client:
        yield client


def version() -> str:
    return assets.asset(assets.POLLER).version


def test_poller_is_compressed_for_clients_with_gzip(client: FlaskClient) -> None:
    answer = client.get(PATH, headers=PACKED)
    assert (answer.status_code, answer.mimetype) == (200, "text/javascript")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert int(answer.headers["Content-Length"]) == len(answer.data) < SCRIPT.stat().st_size / 2
    assert gzip.decompress(answer.data) == SCRIPT.read_bytes()


@pytest.mark.parametrize("accepted", [None, "", "identity", "br", "gzip;q=0"])
def test_poller_is_not_compressed_for_other_clients(client: FlaskClient, accepted: str | None) -> None:
    answer = client.get(PATH, headers={} if accepted is None else {"Accept-Encoding": accepted})
    assert "Content-Encoding" not in answer.headers
    assert answer.data == SCRIPT.read_bytes()
    assert answer.headers["Vary"] == "Accept-Encoding"  # a cache must keep both forms apart


def test_only_address_of_this_version_is_cached_for_ever(client: FlaskClient) -> None:
    kept = client.get(f"{PATH}?v={version()}")
    assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for query in ("", "?v=", "?v=1.0.0", f"?v={version()[:-1]}", f"?w={version()}"):
        assert client.get(PATH + query).headers["Cache-Control"] == "no-cache"


def test_both_forms_have_their_own_etag(client: FlaskClient) -> None:
    plain, packed = client.get(PATH), client.get(PATH, headers=PACKED)
    assert plain.headers["ETag"] != packed.headers["ETag"]
    for first, headers in ((plain, {}), (packed, PACKED)):
        again = client.get(PATH, headers={**headers, "If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        assert again.headers["Vary"] == "Accept-Encoding"
        assert "Cache-Control" in again.headers
    other = client.get(PATH, headers={"If-None-Match": packed.headers["ETag"]})
    assert (other.status_code, other.data) == (200, SCRIPT.read_bytes())


def test_another_process_serves_same_bytes_and_etag(client: FlaskClient) -> None:
    ours = client.get(PATH, headers=PACKED)
    script = f"""
import flask, flask_warmcache, hashlib
app = flask.Flask("other")
flask_warmcache.WarmCache(app)
answer = app.test_client().get({PATH!r}, headers={PACKED!r})
print(answer.headers["ETag"], hashlib.sha256(answer.data).hexdigest())
"""
    assert run_python(script).stdout.split() == [ours.headers["ETag"], hashlib.sha256(ours.data).hexdigest()]


def test_head_has_no_body(client: FlaskClient) -> None:
    whole, head = client.get(PATH, headers=PACKED), client.head(PATH, headers=PACKED)
    assert (head.status_code, head.data) == (200, b"")
    assert {**whole.headers} == {**head.headers}


@pytest.mark.parametrize("name", ["status.css", "status.js"])
def test_files_of_status_page_are_served_alike(client: FlaskClient, name: str) -> None:
    answer = client.get(f"/api/cache/static/{name}?v={assets.asset(name).version}", headers=PACKED)
    assert answer.status_code == 200
    assert answer.content_type == f"{assets.KINDS[name]}; charset=utf-8"
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    [
        "warmcache.d.ts",
        "status.html",
        "web.py",
        "../web.py",
        "../../flask_warmcache/web/routes.py",
        "..%2fweb.py",
        ".",
        "x" * 999,
    ],
)
def test_no_other_file_is_served(client: FlaskClient, name: str) -> None:
    answer = client.get(f"/api/cache/static/{name}")
    assert answer.status_code == 404
    assert len(answer.data) < 400


def test_missing_poller_raises_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "flask_warmcache" / "web" / "assets.py"))
    with pytest.raises(RuntimeError, match=r"warmcache\.js is missing .*install it again"):
        assets.static_folder()
    (tmp_path / "flask_warmcache" / "static").mkdir(parents=True)
    (tmp_path / "flask_warmcache" / "static" / "warmcache.js").write_text("")
    assert assets.static_folder() == tmp_path / "flask_warmcache" / "static"
