"""What may be declared as a one-time task, and by what its deployments are told apart."""

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
    timeout: float  # seconds, after which it is late
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
            self._refuse("is a generator, whose body a call does not run; let it return instead of yield")
        try:
            inspect.signature(self.function).bind()
        except TypeError:
            self._refuse("needs arguments, but tasks are called without any")
        except ValueError:
            pass  # written in C, without a signature to look at

    def _refuse(self, why: str) -> None:
        raise DeclarationError(f"One-time task {self.name!r} {why}.")

    def deployment(self, release: object) -> str:
        """What is the same in all processes of one deployment, and another in the next.

        :param release: names the deployment; None: the function's own code does.
        """
        if release is not None:
            return digest_of([], self.version, "release", str(release))
        return digest_of([self.function], self.version, "code")


def check_name(name: object) -> None:
    """Refuse what cannot name a task: names are parts of file names, and keys in the stats.

    :raises DeclarationError: saying what can.
    """
    if not isinstance(name, str) or not NAME.match(name):
        raise DeclarationError(
            f"{name!r} cannot name a one-time task: use 1 to 64 of the characters a-z, 0-9, '_' and '-', as in "
            "@warmcache.once('create-tables')."
        )
