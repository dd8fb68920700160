"""What one WarmCache declared: lists and values, sections of the stats, one-time tasks, deferred blueprints.

Declarations are open until an app of this WarmCache handles its first request or starts its keeper.  A later
declaration is refused instead of being ignored in the processes that have closed already.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .declaration import NAME, Declaration
from .errors import DeclarationError

if TYPE_CHECKING:
    from flask import Flask

    from .startup.deferred import Deferred
    from .startup.task import Task

Section = Callable[[], Mapping[str, Any]]
# Keys of ``GET /api/cache/stats`` beside the sections.
RESERVED = ("cache_rebuilding", "degraded")


class Declared(Protocol):
    """A list or value as the registry knows it."""

    name: str
    declaration: Declaration


class Registry:
    """The declarations of one WarmCache; several apps may share it."""

    def __init__(self) -> None:
        self.lists: dict[str, Declared] = {}
        self.sections: dict[str, Section] = {}
        self.own_sections: set[str] = set()  # those that this package adds itself
        self.tasks: dict[str, Task] = {}
        self.deferred: list[Deferred] = []
        self.apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        self._closed = False

    def close(self) -> list[Declaration]:
        """Refuse declarations from now on, and return those of the lists and values."""
        self._closed = True
        return [declared.declaration for declared in self.lists.values()]

    def only_app(self) -> Flask:
        """Return the app that is meant outside an app context.

        :raises RuntimeError: when there is none, or several.
        """
        apps = list(self.apps)
        if len(apps) == 1:
            return apps[0]
        if not apps:
            raise RuntimeError("This WarmCache has no app. Create it with WarmCache(app), or call init_app(app).")
        raise RuntimeError(
            f"This WarmCache has {len(apps)} apps, and there is no app context that says which one is meant. Wrap "
            "the call in 'with app.app_context():'."
        )

    def require_open(self, what: str, advice: str) -> None:
        """Refuse a declaration that comes after the first request.

        :param what: the declaration, as the subject of the message.
        :param advice: what to do instead, a sentence.
        :raises DeclarationError: when declarations are closed.
        """
        if self._closed:
            raise DeclarationError(f"{what} too late: declarations closed at the app's first request.{advice}")

    def check_name(self, name: str) -> None:
        """Refuse a name that a list, a value or a section cannot have.

        :raises DeclarationError: when the name is malformed or taken, or declarations are closed.
        """
        self.require_open(f"{name!r} is declared", " Declare lists where the app is made.")
        if name in RESERVED or not isinstance(name, str) or not NAME.match(name):
            raise DeclarationError(
                f"{name!r} cannot name a list: use 1 to 64 of the characters a-z, 0-9, '_' and '-'."
            )
        if name in self.lists or name in self.sections:
            raise DeclarationError(f"There is a warm list or stats section named {name!r} already.")

    def add(self, declared: Declared) -> None:
        """Add a list or value."""
        self.check_name(declared.name)  # again: a decorator may be applied long after it was made
        self.lists[declared.name] = declared

    def add_section(self, name: str, section: Section) -> None:
        """Add a section of this package's own to the stats."""
        self.check_name(name)
        self.own_sections.add(name)
        self.sections[name] = section

    def add_task(self, task: Task, section: Section) -> None:
        """Add a one-time task.

        :param section: the section of the stats that shows all tasks, added with the first one.
        :raises DeclarationError: when there is one of that name, or declarations are closed.
        """
        self.require_open(f"One-time task {task.name!r} is declared", "")
        if task.name in self.tasks:
            raise DeclarationError(f"There is a one-time task named {task.name!r} already.")
        if not self.tasks:
            self.add_section("tasks", section)
        self.tasks[task.name] = task

    def add_deferred(self, deferred: Deferred, section: Section) -> None:
        """Add a deferred blueprint.

        :param section: the section of the stats that shows all of them, added with the first one.
        :raises DeclarationError: when it does not fit beside the others, or declarations are closed.
        """
        self.require_open(f"{str(deferred.target)!r} is deferred", " Defer blueprints where the app is made.")
        deferred.check_beside(self.deferred)
        if not self.deferred:
            self.add_section("blueprints", section)
        self.deferred.append(deferred)
