"""Settings: they are read once and checked at once, and errors name them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import SettingError, WarmCache
from flask_warmcache.settings import SERVER_STARTED, Settings
from tests.support.apps import state_of

WRONG: list[tuple[str, Any, str]] = [
    ("dir", 5, "a folder's path"),
    ("enabled", "no", "True or False"),
    ("enabled", 1, "True or False"),
    ("default_ttl", "60", "a number of seconds above 0, or None"),
    ("default_ttl", True, "a number of seconds above 0, or None"),
    ("default_ttl", math.nan, "a number of seconds above 0, or None"),
    ("default_ttl", 0, "above 0"),
    ("default_ttl", -1, "above 0"),
    ("per_page", 0, "at least 1"),
    ("per_page", 50.0, "a whole number"),
    ("per_page", True, "a whole number"),
    ("per_page", 501, "at most WARMCACHE_MAX_PER_PAGE"),
    ("max_per_page", 0, "at least 1"),
    ("max_per_page", 99, "at most WARMCACHE_MAX_PER_PAGE"),
    ("max_all_bytes", 0, "at least 1"),
    ("max_all_bytes", "8 MB", "a whole number"),
    ("page_cache_bytes", -1, "0 for none"),
    ("search_budget", 0, "above 0"),
    ("search_budget", math.inf, "a finite number of seconds"),
    ("search_budget", "50 ms", "a finite number of seconds"),
    ("allow_refresh", None, "True or False"),
    ("refresh_interval", -0.1, "0 for none"),
    ("runner", "fork", "one of thread, process, external, auto"),
    ("runner", None, "text"),
    ("build_timeout", 0, "above 0"),
    ("defer_wait", -1, "0 for none"),
    ("retry_min", 0, "above 0"),
    ("retry_min", 301, "at most WARMCACHE_RETRY_MAX"),
    ("retry_max", 0, "above 0"),
    ("retry_max", 3601, "an hour"),
    ("api_prefix", "api/cache", "a path like '/api/cache'"),
    ("api_prefix", "/api/cache/", "a path like '/api/cache'"),
    ("api_prefix", "", "a path like '/api/cache'"),
    ("api_prefix", None, "text"),
    ("cache_control", "private\r\nSet-Cookie: a=b", "one line of ASCII text"),
    ("cache_control", 300, "text"),
    ("cache_control", "private, \N{EURO SIGN}", "one line of ASCII text"),
    ("dir", "", "a folder's path"),
]


@pytest.mark.parametrize(("name", "value", "meaning"), WRONG)
def test_wrong_value_or_default_fails_in_init_app_by_name(name: str, value: object, meaning: str) -> None:
    app = Flask("shop")
    app.config[f"WARMCACHE_{name.upper()}"] = value
    # per_page and max_per_page limit each other, so either may be named.
    named = "WARMCACHE_PER_PAGE" if name == "max_per_page" and value == 99 else f"WARMCACHE_{name.upper()}"
    with pytest.raises(SettingError, match=f"^{named} must be .*{meaning}"):
        WarmCache(app)
    assert "warmcache" not in app.extensions
    with pytest.raises(SettingError, match=meaning):
        WarmCache(Flask("shop"), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("default_ttl", 60),
        ("default_ttl", 0.5),
        ("default_ttl", None),
        ("default_ttl", math.inf),
        ("per_page", 1),
        ("page_cache_bytes", 0),
        ("refresh_interval", 0),
        ("defer_wait", 0),
        ("api_prefix", "/warm"),
        ("dir", None),
        ("dir", "/srv/cache"),
        ("cache_control", "no-store"),
        ("cache_control", ""),
    ],
)
def test_values_at_limits_are_accepted(name: str, value: object) -> None:
    assert getattr(Settings.from_config({f"WARMCACHE_{name.upper()}": value}), name) == value


def test_unknown_setting_or_default_is_refused_with_known_ones() -> None:
    app = Flask("shop")
    app.config["WARMCACHE_MAX_STALE"] = 5
    known = r"Unknown setting WARMCACHE_MAX_STALE\. Known: .*WARMCACHE_DIR, "
    with pytest.raises(SettingError, match=known) as failed:
        WarmCache(app)
    assert str(failed.value).count("WARMCACHE_") == 1 + len(Settings.__dataclass_fields__)
    with pytest.raises(SettingError, match="Unknown setting WARMCACHE_PERPAGE"):
        WarmCache(Flask("shop"), perpage=5)


def test_lower_case_setting_in_config_is_ignored() -> None:
    assert Settings.from_config({"warmcache_per_page": "x", "CACHE_TYPE": "simple", "DEBUG": True}) == Settings()


def test_config_is_read_once_and_wins_over_defaults_and_defaults_over_ours() -> None:
    app = Flask("shop")
    app.config["WARMCACHE_PER_PAGE"] = 7
    WarmCache(app, per_page=9, default_ttl=11)
    app.config["WARMCACHE_PER_PAGE"] = 8
    settings = state_of(app).settings
    assert (settings.per_page, settings.default_ttl, settings.max_per_page) == (7, 11, 500)


def test_settings_from_environment_work_as_flask_loads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_WARMCACHE_PER_PAGE", "25")
    monkeypatch.setenv("FLASK_WARMCACHE_ENABLED", "false")
    app = Flask("shop")
    app.config.from_prefixed_env()
    WarmCache(app)
    settings = state_of(app).settings
    assert (settings.per_page, settings.enabled) == (25, False)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("per_page", "25", 25),
        ("enabled", "No", False),
        ("ready_strict", "on", True),
        ("search_budget", "0.2", 0.2),
        ("default_ttl", "60", 60.0),
        ("default_ttl", "none", None),
        ("default_ttl", "inf", math.inf),
        ("release", "1234e56", "1234e56"),
        ("dir", "/srv/cache", "/srv/cache"),
        ("dir", "", None),  # an empty variable counts as none
    ],
)
def test_environment_is_read_above_defaults_and_below_config(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    variable = f"WARMCACHE_{name.upper()}"
    monkeypatch.setenv(variable, text)
    plain, configured = Flask("shop"), Flask("shop")
    WarmCache(plain, **{name: getattr(Settings, name)})
    assert getattr(plain.extensions["warmcache"].settings, name) == value
    configured.config[variable] = getattr(Settings, name)
    WarmCache(configured)
    assert getattr(configured.extensions["warmcache"].settings, name) == getattr(Settings, name)


@pytest.mark.parametrize(
    ("name", "text"), [("per_page", "25.0"), ("per_page", "501"), ("enabled", "maybe"), ("default_ttl", "5 min")]
)
def test_wrong_text_in_environment_fails_by_name(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"WARMCACHE_{name.upper()}", text)
    with pytest.raises(SettingError, match=f"^WARMCACHE_{name.upper()} must be .*{text}"):
        WarmCache(Flask("shop"))


def test_variable_that_is_no_setting_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("WARMCACHE_PERPAGE", "WARMCACHE_SERVICE_HOST", SERVER_STARTED):
        monkeypatch.setenv(name, "5")
    WarmCache(Flask("shop"))
    assert "setting_unknown: the environment has WARMCACHE_PERPAGE, WARMCACHE_SERVICE_HOST, which" in caplog.text


def test_path_object_is_accepted_as_folder() -> None:
    assert str(Settings.from_config({"WARMCACHE_DIR": Path("/srv/cache")}).dir) == "/srv/cache"
