"""The declaration of a one-time task, and what identifies a deployment."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..bytecode import digest_of
from ..declaration import NAME
from ..errors import DeclarationError


@dataclass(frozen=True)
class Task:
    """A function that one process runs once in each deployment."""

    name: str
    timeout: float  # seconds after which the task is late
    version: str
    function: Callable[[], Any]

    def __post_init__(self) -> None:
        check_name(self.name)
        is_number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if not is_number or not 0 < self.timeout < math.inf:
            self._refuse(f"has timeout={self.timeout!r}; timeout is a number of seconds above 0")
        if not callable(self.function):
            self._refuse(f"must be a function, not {self.function!r}")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            self._refuse("is a generator, whose body does not run when it is called; use return instead of yield")
        try:
            inspect.signature(self.function).bind()
        except TypeError:
            self._refuse("has required parameters, but tasks are called without arguments")
        except ValueError:
            pass  # written in C, without a signature to inspect

    def _refuse(self, why: str) -> None:
        raise DeclarationError(f"One-time task {self.name!r} {why}.")

    def deployment(self, release: object) -> str:
        """Return a digest that all processes of one deployment share and the next deployment changes.

        :param release: the name of the deployment, or None if the function's own code identifies it.
        """
        if release is not None:
            return digest_of([], self.version, "release", str(release))
        return digest_of([self.function], self.version, "code")


def check_name(name: object) -> None:
    """Refuse a name that cannot be part of a file name and a key of the stats.

    :raises DeclarationError: when the name is malformed.
    """
    if not isinstance(name, str) or not NAME.match(name):
        raise DeclarationError(
            f"{name!r} cannot name a one-time task: use 1 to 64 of the characters a-z, 0-9, '_' and '-', as in "
            "@warmcache.once('create-tables')."
        )
