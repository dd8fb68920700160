"""``flask warmcache refresh``, ``discard``, ``invalidate`` and ``clear``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import click
from flask.cli import with_appcontext

from ..errors import StoreError
from ..lists.warm_list import WarmList
from ..status.condition import ListStatus
from ..store.snapshot import DAMAGE
from .common import BUSY, leave, opened_list, opened_state


def _with_keys(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of a command that changes items: the list, the keys, and the kind of the keys."""
    for argument in (
        click.option("--int", "as_int", is_flag=True, help="The keys are whole numbers; otherwise they are text."),
        click.argument("keys", nargs=-1, required=True, metavar="KEY..."),
        click.argument("name"),
    ):
        command = argument(command)
    return command


@click.command("refresh")
@_with_keys
@with_appcontext
def refresh_command(name: str, keys: tuple[str, ...], as_int: bool) -> None:
    """Renew the items KEY... of the list NAME.

    They are looked up again, enriched and published. Other items stay unchanged. The exit code is 1 when this
    fails, and 3 when it cannot be published now. The list is then invalidated.
    """
    _change("refresh", name, keys, as_int)


@click.command("discard")
@_with_keys
@with_appcontext
def discard_command(name: str, keys: tuple[str, ...], as_int: bool) -> None:
    """Remove the items KEY... from the list NAME.

    The exit code is 1 when this fails, and 3 when it cannot be published now. The list is then invalidated.
    """
    _change("discard", name, keys, as_int)


def _change(verb: str, name: str, texts: tuple[str, ...], as_int: bool) -> None:
    status = opened_list(name)
    if status.declaration.kind == "value" or status.declaration.key is None:
        raise click.UsageError(f"{name!r} has no items with a key, so there is nothing to {verb}.")
    try:
        keys: list[str | int] = [int(text) for text in texts] if as_int else list(texts)
    except ValueError as error:
        raise click.UsageError(f"With --int each KEY is a whole number: {error}.") from None
    _refuse_other_kind(status, keys)
    # Handles are stateless: a second one finds the same list by its name.
    listed = WarmList(status.declaration, opened_state().registry)
    try:
        is_published: bool = getattr(listed, verb)(*keys)
    except Exception as error:
        leave(f"{name} is unchanged: {type(error).__name__}: {error}")
    if not is_published:
        leave(f"{name} cannot be written now; it is invalidated, so the next rebuild applies the change.", BUSY)
    click.echo(f"{name}: {len(keys)} {'key' if len(keys) == 1 else 'keys'} {verb.rstrip('e')}ed.")


def _refuse_other_kind(status: ListStatus, keys: Sequence[str | int]) -> None:
    """Refuse text for a whole number of the list, and the reverse: neither would be found.

    :raises UsageError: which says how to give the key.
    """
    snapshot, field = status.condition().snapshot, status.declaration.key or ""
    if snapshot is None or not snapshot.count:
        return
    with suppress(*DAMAGE):
        has_numbers = isinstance(snapshot.item(snapshot.slot_at(0))[field], int)
        for key in keys:
            if snapshot.find(key, field) is not None:
                continue
            if isinstance(key, int):
                if snapshot.find(str(key), field) is not None:
                    raise click.UsageError(f"The key {str(key)!r} of {status.name!r} is text. Leave --int out.")
            elif key.removeprefix("-").isdecimal() and (has_numbers or snapshot.find(int(key), field) is not None):
                raise click.UsageError(f"The keys of {status.name!r} are whole numbers. Use --int for {key!r}.")


@click.command("invalidate")
@click.argument("name")
@with_appcontext
def invalidate_command(name: str) -> None:
    """Mark the list NAME as out of date. A running worker rebuilds it, or else the next worker that starts."""
    status = opened_list(name)
    try:
        status.store.invalidate(name)
    except StoreError as error:
        leave(str(error))
    click.echo(f"{name} is invalidated.")


@click.command("clear")
@click.argument("name")
@with_appcontext
def clear_command(name: str) -> None:
    """Remove the contents of the list NAME. Every worker answers as cold until the list is rebuilt from scratch.

    The exit code is 3 when a rebuild is running.
    """
    status = opened_list(name)
    try:
        lock = status.store.try_lock(name)
        if lock is None:
            leave(f"{name} is being rebuilt; try again when that has ended.", BUSY)
        try:
            status.store.publish_cold(name)
        finally:
            lock.close()
    except (StoreError, OSError) as error:
        leave(str(error))
    click.echo(f"{name} is cleared.")
