"""What a function does, told by its compiled code: the same in every process that has loaded the same text.

By the code that is loaded and not by the file: a deployment may have replaced the file under a process that runs.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import CellType, CodeType
from typing import Any


def digest_of(functions: Iterable[Callable[..., Any]], *more: str) -> str:
    """What is the same for functions of the same code, in every process of one interpreter.

    Their own code only: what they call in other modules may be another.

    :param more: what else is to be the same.
    """
    parts = [*more, *(part for function in functions for part in _parts(function))]
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _parts(function: Callable[..., Any]) -> Iterator[str]:
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
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
    """Whether its text is the same in every process; that of an object may tell where it lies."""
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
    yield repr((code.co_names, code.co_freevars, code.co_cellvars))  # what an argument is called changes nothing
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_parts(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))  # in a set's own order, each process would have another
        else:
            yield repr(constant)
