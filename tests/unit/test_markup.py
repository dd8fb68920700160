"""The helpers of templates: the tag that loads the poller, and the attributes of elements that it refreshes."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask import render_template_string
from jinja2 import DictLoader

from flask_warmcache import UnknownListError, WarmCache
from flask_warmcache.web import assets
from tests.support.apps import Shop, make_app

HOSTILE = '"><script>alert(1)</script>'


class Tags(HTMLParser):
    """The tags of a page, as a browser parses them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def attributes(shop: Shop, template: str, path: str = "/", method: str = "GET", **context: Any) -> dict[str, Any]:
    """Return the attributes of the only tag that the template renders."""
    with shop.app.test_request_context(path, method=method):
        ((_, found),) = Tags(render_template_string(template, **context)).found
    return found


def test_script_tag_has_versioned_script_and_status_url(shop: Shop) -> None:
    found = attributes(shop, "{{ warmcache_script() }}")
    version = assets.asset("warmcache.js").version
    assert found == {
        "defer": None,
        "src": f"/api/cache/static/warmcache.js?v={version}",
        "data-status-url": "/api/cache/stats",
    }
    assert "immutable" in shop.client.get(found["src"]).headers["Cache-Control"]


def test_script_tag_follows_prefixes_of_app(tmp_path: Path) -> None:
    app = make_app(tmp_path, api_prefix="/warm")
    WarmCache(app)
    with app.test_request_context("/", base_url="http://localhost/shop"):
        ((_, found),) = Tags(render_template_string("{{ warmcache_script() }}")).found
    assert found["data-status-url"] == "/shop/warm/stats"
    assert str(found["src"]).startswith("/shop/warm/static/warmcache.js?v=")


def test_settings_of_poller_are_keyword_arguments(shop: Shop) -> None:
    options = "nonce='abc', max_interval=500, share=false, hidden='slow', jitter=none, status_url='/x'"
    found = attributes(shop, "{{ warmcache_script(" + options + ") }}")
    assert (found["nonce"], found["data-max-interval"], found["data-share"]) == ("abc", "500", "false")
    assert (found["data-hidden"], found["data-status-url"]) == ("slow", "/x") and "data-jitter" not in found


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_page_that_answers_form_is_marked(shop: Shop, method: str) -> None:
    assert attributes(shop, "{{ warmcache_script() }}", method=method)["data-method"] == method
    assert "data-method" not in attributes(shop, "{{ warmcache_script() }}", method="HEAD")


@pytest.mark.parametrize(
    "template", ["{{ warmcache_script(intervall=1) }}", "{{ warmcache_attrs('files', nonce=1) }}"]
)
def test_unknown_option_is_refused_by_name(shop: Shop, template: str) -> None:
    with pytest.raises(TypeError, match=r"has no option '(intervall|nonce)'. Known: "):
        attributes(shop, template)


def test_region_of_cold_list_is_busy_and_wakes_keeper(shop: Shop) -> None:
    before = time.time()
    found = attributes(shop, "<p {{ warmcache_attrs('files') }}>")
    # The time of rendering, for a browser that shows the page again much later; only while a rebuild runs.
    assert 1000 * before - 1 <= int(found.pop("data-warmcache-at")) <= 1000 * time.time() + 1
    assert found == {
        "data-warmcache": "files",
        "data-warmcache-state": "cold",
        "data-warmcache-rebuilding": "true",
        "aria-busy": "true",
    }
    assert shop.keeper._wake.is_set()


def test_region_of_fresh_list_has_its_generation(shop: Shop) -> None:
    shop.rebuild()
    with shop.app.app_context():
        generation = shop.list.get().generation
    found = attributes(shop, "<p {{ warmcache_attrs('files', refresh='prompt', src='/rows', keep='a b') }}>")
    assert found == {
        "data-warmcache": "files",
        "data-warmcache-state": "fresh",
        "data-warmcache-generation": generation,
        "data-warmcache-rebuilding": "false",
        "data-warmcache-refresh": "prompt",
        "data-warmcache-src": "/rows",
        "data-warmcache-keep": "a b",
    }


def test_region_of_stale_list_is_not_busy(shop: Shop) -> None:
    shop.rebuild()
    shop.state.store.invalidate("files")
    found = attributes(shop, "<p {{ warmcache_attrs('files') }}>")
    assert (found["data-warmcache-state"], found["data-warmcache-rebuilding"]) == ("stale", "true")
    assert "aria-busy" not in found


def test_region_describes_what_view_has_read(shop: Shop) -> None:
    with shop.app.app_context():
        shop.list.rebuild_now()
        items, page = shop.list.get(), shop.list.page()
        shop.list.rebuild_now()
    now = attributes(shop, "<p {{ warmcache_attrs('files') }}>")
    for read in (items, page):
        found = attributes(shop, "<p {{ warmcache_attrs('files', read) }}>", read=read)
        assert found["data-warmcache-generation"] == items.generation != now["data-warmcache-generation"]


def test_region_of_unknown_list_is_refused_by_name(shop: Shop) -> None:
    with pytest.raises(UnknownListError, match=r"No warm list named 'fils'. Declared: files"):
        attributes(shop, "<p {{ warmcache_attrs('fils') }}>")


def test_hostile_options_stay_text(shop: Shop) -> None:
    script = attributes(shop, "{{ warmcache_script(nonce=x, refresh=x) }}", x=HOSTILE)
    assert (script["nonce"], script["data-refresh"]) == (HOSTILE, HOSTILE)
    region = attributes(shop, "<p {{ warmcache_attrs('files', src=x) }}>", x=HOSTILE)
    assert region["data-warmcache-src"] == HOSTILE


def test_macros_imported_with_context_can_use_helpers(shop: Shop) -> None:
    shop.app.jinja_loader = DictLoader({"macros": "{% macro head() %}{{ warmcache_script() }}{% endmacro %}"})
    found = attributes(shop, "{% from 'macros' import head with context %}{{ head() }}")
    assert found["data-status-url"] == "/api/cache/stats"


def test_poller_reads_attributes_that_helpers_write() -> None:
    source = (assets.static_folder() / "warmcache.js").read_text()
    for name in ("warmcache", "warmcacheState", "warmcacheGeneration", "warmcacheRebuilding", "warmcacheRefresh"):
        destructured = rf"\{{[^}}]*\b{name}: \w+[^}}]*\}} = (found\?\.)?dataset\b"
        assert re.search(rf"dataset\.{name}\b|{destructured}", source), name
    assert "statusUrl" in source and "warmcacheSrc" in source
