"""Functions that are declared with ``async def`` run as Flask runs async views."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial, wraps
from typing import Any

from flask import current_app

from ..declaration import asynchronous, check_function


def checked(name: str, role: str, function: Any) -> Callable[..., Any]:
    """Return a list's function to be called without ``await``.

    :raises DeclarationError: when it is no function.
    """
    check_function(name, role, function)
    return _synchronous(function)


def _synchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function to be called without ``await``: the same one, unless it is async.

    An async one runs by the app's ``ensure_sync`` in the thread that calls it, and gives an async generator's
    items as a list.
    """
    kind = asynchronous(function)
    if kind is None:
        return function

    async def run(*arguments: Any) -> Any:
        if kind == "generator":
            return [item async for item in function(*arguments)]
        return await function(*arguments)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        # Imported here, because a worker that only serves does not need them.
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        call_it = partial(current_app.ensure_sync(run), *arguments)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return call_it()
        # An async view calls ``refresh``: its thread has a running loop, and cannot run another one.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(copy_context().run, call_it).result()

    return call
