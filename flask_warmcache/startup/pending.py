"""The deferred blueprints of one app in this process, as the thread that loads them and the gate share them."""

from __future__ import annotations

import threading

from .deferred import LOADED, LOADING, PENDING, Entry


class Pending:
    """Which blueprints there are, which of them are not loaded yet, and which thread is loading one."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []  # in the order of declaration
        self.unfinished: tuple[Entry, ...] = ()  # by priority
        self.prefixes: tuple[str, ...] = ()  # of the unfinished, for a quick check of a path
        self.after_fork()

    def after_fork(self) -> None:
        """Reset what belongs to the parent's threads."""
        self.changed = threading.Condition()  # guards the entries and the thread; notified of every change
        self.thread: threading.Thread | None = None  # loads blueprints in the background
        self.importing: int | None = None  # identifies the thread that is importing one
        for entry in self.unfinished:
            if entry.state == LOADING:
                entry.state = PENDING

    def add(self, entry: Entry) -> None:
        """Add a blueprint, before the app serves."""
        self.entries.append(entry)
        self.note_unfinished()

    def note_unfinished(self) -> None:
        """Compute again what is not loaded yet; the caller holds ``changed`` once the app serves."""
        unfinished = [entry for entry in self.entries if entry.state != LOADED]
        unfinished.sort(key=lambda entry: -entry.declared.priority)
        self.unfinished = tuple(unfinished)
        self.prefixes = tuple(entry.declared.url_prefix for entry in unfinished)

    def is_running(self) -> bool:
        """Whether the background thread lives."""
        return self.thread is not None and self.thread.is_alive()

    def is_loading_here(self) -> bool:
        """Whether the calling thread is importing a blueprint at this moment."""
        return self.importing == threading.get_ident()
