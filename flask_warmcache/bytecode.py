"""A digest of what functions do, from their compiled code: it is the same in all processes that loaded one text.

The file is not read, because a deployment may have replaced it while the process runs.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import CellType, CodeType
from typing import Any


def digest_of(functions: Iterable[Callable[..., Any]], *more: str) -> str:
    """Return a digest that is equal for functions of equal code, in every process of one interpreter.

    It covers only their own code, not the functions that they call.

    :param more: text that the digest depends on, too.
    """
    parts = [*more, *(part for function in functions for part in _parts(function))]
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _parts(function: Callable[..., Any]) -> Iterator[str]:
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        yield from _code_parts(code)
        cells = [_content(cell) for cell in getattr(function, "__closure__", None) or ()]
        for value in (*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if _is_plain(value):
                yield repr(value)
    else:
        kind = function if hasattr(function, "__qualname__") else type(function)
        yield f"{kind.__module__}.{kind.__qualname__}"


def _is_plain(value: object) -> bool:
    """Return whether its repr is the same in every process; that of other objects may contain their address."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str, bytes)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not bound yet


def _code_parts(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_freevars, code.co_cellvars))  # the names of arguments change nothing
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_parts(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))  # the order of a set differs between processes
        else:
            yield repr(constant)
