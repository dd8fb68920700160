"""Log events: every record has a stable name, and the facts of its message as fields of its own.

A message refers to its facts as ``%(name)s``.  Each fact is also an attribute of the record, such as
``record.warmcache_list``, so that a formatter can write it as JSON.  ``docs/events.md`` lists the events.
"""

from __future__ import annotations

import logging
from typing import Any

_logger = logging.getLogger("flask_warmcache")
FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
Error = BaseException | bool | None


def _log(level: int, event: str, message: str, error: Error, facts: dict[str, Any]) -> None:
    fields = {f"warmcache_{name}": fact for name, fact in facts.items()}
    arguments = (facts,) if facts else ()
    _logger.log(level, f"{event}: {message}", *arguments, exc_info=error, extra=fields, stacklevel=3)


def level() -> int | None:
    """Return the lowest level that is logged here, or None if no logging is configured."""
    return _logger.getEffectiveLevel() if _logger.hasHandlers() else None


def log_from(level: int | None) -> None:
    """Log as ``level`` said in another process, to stderr unless logging is configured here."""
    if not _logger.hasHandlers():
        logging.basicConfig(format=FORMAT)
    if level is not None:
        _logger.setLevel(level)


def debug(event: str, message: str, **facts: Any) -> None:
    """Log an event that helps to understand the others."""
    _log(logging.DEBUG, event, message, None, facts)


def info(event: str, message: str, **facts: Any) -> None:
    """Log an event of normal operation.

    :param event: its name, as ``warmcache.task_started``.
    :param message: the text after the name, with ``%(fact)s`` for each fact.
    """
    _log(logging.INFO, event, message, None, facts)


def warning(event: str, message: str, error: Error = None, **facts: Any) -> None:
    """Log an event that needs attention; ``error`` adds a traceback (True: that of the current exception)."""
    _log(logging.WARNING, event, message, error, facts)


def error(event: str, message: str, error: Error = None, **facts: Any) -> None:
    """Log an event that needs attention now; ``error`` adds a traceback (True: that of the current exception)."""
    _log(logging.ERROR, event, message, error, facts)
