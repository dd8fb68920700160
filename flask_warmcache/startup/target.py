"""``"pkg.module:name"``: what is to be imported later, checked now."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import reduce
from typing import Any

from ..errors import DeclarationError


@dataclass(frozen=True)
class Target:
    """Something in a module that is not imported yet."""

    module: str
    attribute: str

    @classmethod
    def parse(cls, text: object) -> Target:
        """Read ``"pkg.module:name"``; imports nothing.

        :raises DeclarationError: when it is not that.
        """
        module, colon, attribute = text.partition(":") if isinstance(text, str) else ("", "", "")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
            raise DeclarationError(
                f"{text!r} does not say what to import: give the full name of a module and what is in it, like "
                "'shop.reports:bp'."
            )
        return cls(module, attribute)

    def load(self) -> Any:
        """Import the module and return what is meant in it; raises whatever the import raises."""
        importlib.invalidate_caches()  # the file may have come since the last attempt
        return reduce(getattr, self.attribute.split("."), importlib.import_module(self.module))

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"
