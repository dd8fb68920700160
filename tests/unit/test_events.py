"""Log events: a stable name, the facts in the message, and each fact as a field."""

from __future__ import annotations

import logging

import pytest

from flask_warmcache import events


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_event_has_its_facts_as_fields(level: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "flask_warmcache")
    getattr(events, level)(
        "warmcache.example", "%(list)r is 100 %% full after %(seconds).1f s", list="a", seconds=2.34
    )
    (record,) = caplog.records
    assert (record.levelname, record.name) == (level.upper(), "flask_warmcache")
    assert record.getMessage() == "warmcache.example: 'a' is 100 % full after 2.3 s"
    assert (vars(record)["warmcache_list"], vars(record)["warmcache_seconds"]) == ("a", 2.34)
    assert record.funcName == "test_event_has_its_facts_as_fields"


def test_event_without_facts_takes_its_message_literally(caplog: pytest.LogCaptureFixture) -> None:
    events.warning("warmcache.example", "100 % full")
    assert caplog.records[0].getMessage() == "warmcache.example: 100 % full"


def test_error_adds_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("broken")
    events.error("warmcache.example", "an error was passed", error=error)
    try:
        raise error
    except ValueError:
        events.error("warmcache.example", "the current error", error=True)
    assert [record.exc_info and record.exc_info[1] for record in caplog.records] == [error, error]
