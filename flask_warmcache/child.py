"""The rebuilding child process: ``python -m flask_warmcache.child``, started by a worker with orders on stdin.

Its first act is to make the locks that it inherits its own, so that no process it starts holds them too.  Then
it imports the app as gunicorn does, answers that it is ready, waits, if told to, until the worker has stopped
between two items or is gone, and rebuilds.  It may outlive its worker, but not its deadline.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ChildError
from .host.priority import LOOK_AFTER, Priority, lower
from .keeper.time_limits import ItemTimeLimit, limit_build
from .settings import KEY
from .store.files import FileStore
from .store.locks import InheritedLock

if TYPE_CHECKING:
    from .state import AppState

log = logging.getLogger("flask_warmcache")
DONE, FAILED = 0, 1  # never 3 or 4: as an orphan of a gunicorn that is process 1, these would end the server
LINE_MAX = 1 << 20
LOG_FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
BEAT_EVERY = 0.5
# Threads that the app has started, and that do not end with us, are left behind so many seconds after.
LINGER = 5.0


def main() -> int:
    """Do what the orders on stdin say; returns the exit code."""
    began = time.time()
    pipe = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    line, rest = _read_line(pipe, b"")
    orders = json.loads(line)
    store = FileStore(Path(orders["cache"]))
    locks = {name: InheritedLock(store.folder / f"{name}.lock", fd) for name, fd in orders["locks"].items()}
    os.set_inheritable(orders["answering"], False)
    try:
        # A group of its own, but no session: with scheduler autogroups a new session undoes nice (measured).
        os.setpgid(0, 0)
    except OSError:
        pass
    if not orders["wait"]:
        if not orders["nice"]:
            lower()
        # Importing an app computes, too; and how long the interpreter had to wait so far mostly tells already.
        priority = Priority({} if orders["nice"] else None)
        priority.look()
    limit_build(orders["timeout"])
    deadline = began + orders["timeout"]
    try:
        served = _import_app(orders)
        state = _find_state(orders, served)
        state.open()
    except BaseException as error:
        return _refuse(orders, store, error, deadline)
    _plain_logging()
    _answer(orders, "ready")
    if orders["wait"]:
        lower()
        _read_line(pipe, rest)  # "go", or the end of the worker, which means the same
        priority = Priority()
    os.close(pipe)
    arguments = (state, priority, LOOK_AFTER if orders["wait"] else 0.0)
    threading.Thread(target=_beat, args=arguments, name="warmcache-beat", daemon=True).start()
    try:
        state.keeper.rebuild_inherited(
            orders["name"],
            locks,
            orders["findings"],
            wanted=orders["wanted"],
            deadline=deadline,
            time_limit=ItemTimeLimit().limit,
        )
    except BaseException:
        report = state.statuses[orders["name"]].report
        if report is None or report.running:
            log.exception(
                "warmcache.child_failed: the rebuild of %r ended where nobody reports it", orders["name"]
            )
        return FAILED  # else logged, reported and counted, even a sys.exit()
    return DONE


def _read_line(pipe: int, begun: bytes) -> tuple[bytes, bytes]:
    """The next line, or what came before the end, and what came behind the line."""
    while b"\n" not in begun:
        more = os.read(pipe, LINE_MAX)
        if not more:
            break
        begun += more
    line, _, rest = begun.partition(b"\n")
    return line, rest


def _import_app(orders: dict[str, Any]) -> Any:
    """What gunicorn serves, imported as gunicorn does."""
    from .host import threads

    threads.in_child = True
    os.chdir(orders["folder"])
    sys.path[:] = orders["paths"]
    if orders["folder"] not in sys.path:
        sys.path.insert(0, orders["folder"])
    from gunicorn.util import import_app

    return import_app(orders["app"])


def _find_state(orders: dict[str, Any], served: Any) -> AppState:
    """The one initialised extension with this folder and this declaration of the list.

    :raises ChildError: when there is none, or several that might be meant.
    """
    from . import state

    there = [one for one in list(state._states) if _is_there(one, orders)]
    if orders["served"]:
        # The worker's own app is what its uri gives, so a second one beside it is not the one that is meant.
        extensions = getattr(served, "extensions", {})
        there = [one for one in there if one is extensions.get(KEY)] or there
    wanted = (orders["name"], orders["code"])
    found = [one for one in there if wanted in [(own.name, own.code) for own in one.registry.close()]]
    if len(found) == 1:
        return found[0]
    if there and not found:
        raise ChildError(
            f"list {orders['name']!r} is another one here than in the worker. If the app's code has changed since "
            "the server started, reload the server; else set WARMCACHE_APP to how the app is imported."
        )
    raise ChildError(
        f"{len(found) or 'No'} apps behind {orders['app']!r} keep a list {orders['name']!r} in the same folder; "
        "set WARMCACHE_APP to how the app is imported."
    )


def _is_there(state: AppState, orders: dict[str, Any]) -> bool:
    """Whether it keeps a list of that name in that folder."""
    if state.settings.dir is None and state.app.testing:
        return False  # its folder would be a new one
    if os.path.realpath(state._folder()) != orders["cache"]:
        return False
    return orders["name"] in [one.name for one in state.registry.close()]


def _refuse(orders: dict[str, Any], store: FileStore, error: BaseException, deadline: float) -> int:
    """Say that there is no app to rebuild for: to the worker, or in the report if the worker is gone."""
    _plain_logging()
    log.error(
        "warmcache.child_refused: the app for %r was not found",
        orders["name"],
        exc_info=error,
        extra={"warmcache_list": orders["name"]},
    )
    why = str(error) if isinstance(error, ChildError) else f"importing the app raised {type(error).__name__}"
    if not _answer(orders, f"refused: {why}") and not orders["wait"]:
        from .keeper.rebuilder import report_failure
        from .status.progress import Progress, Report

        name = orders["name"]
        before = Report.read(store.read_progress(name))
        progress = Progress(
            lambda report: store.write_progress(name, report),
            before,
            runner="process",
            deadline=deadline,
            handed_over=True,
        )
        report_failure(name, ChildError(why), progress, *orders["retry"])
    return FAILED


def _answer(orders: dict[str, Any], text: str) -> bool:
    """Tell the worker; False when it is gone."""
    try:
        os.write(orders["answering"], f"{text}\n".encode())
    except OSError:
        return False
    return True


def _plain_logging() -> None:
    """Log to stderr, which the worker has left to us, unless the app has seen to its logging."""
    if not logging.getLogger().handlers:
        logging.basicConfig(format=LOG_FORMAT, stream=sys.stderr)


def _beat(state: AppState, priority: Priority, pause: float) -> None:
    has_seen = False
    while True:
        time.sleep(pause)
        has_seen = has_seen or priority.look()
        state.keeper.beat()
        pause = BEAT_EVERY


def _end(code: int) -> None:
    """Leave, even if the app has threads that do not end."""

    def leave() -> None:
        time.sleep(LINGER)
        os._exit(code)

    threading.Thread(target=leave, name="warmcache-leave", daemon=True).start()
    sys.exit(code)


if __name__ == "__main__":
    _end(main())
