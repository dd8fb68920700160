"""``"pkg.module:name"``: an object that is imported later, but whose name is checked now."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import reduce
from typing import Any

from ..errors import DeclarationError


@dataclass(frozen=True)
class Target:
    """An object in a module that may not be imported yet."""

    module: str
    attribute: str

    @classmethod
    def parse(cls, text: object) -> Target:
        """Parse ``"pkg.module:name"`` without importing anything.

        :raises DeclarationError: when the text is not of that form.
        """
        module, colon, attribute = text.partition(":") if isinstance(text, str) else ("", "", "")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
            raise DeclarationError(
                f"{text!r} does not say what to import: give the full name of a module and of an object in it, "
                "like 'shop.reports:bp'."
            )
        return cls(module, attribute)

    def load(self) -> Any:
        """Import the module and return the object; raise whatever the import raises."""
        importlib.invalidate_caches()  # the file may have been added since the last attempt
        return reduce(getattr, self.attribute.split("."), importlib.import_module(self.module))

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"
