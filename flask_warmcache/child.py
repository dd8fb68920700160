"""The rebuilding child process: ``python -m flask_warmcache.child``, started by a worker with orders on stdin.

First it makes the locks that it inherits its own, so that no process it starts holds them, too.  Then it imports
the app as gunicorn does, and answers that it is ready.  If told to, it waits until the worker has stopped between
two items, or is gone.  Then it rebuilds.  It may outlive its worker, but not its deadline.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import events
from .errors import ChildError
from .host import threads
from .host.child_priority import MEASURE_AFTER, Priority, lower
from .host.metrics import share_files
from .keeper.process import ItemTimeLimit, limit_build
from .keeper.reporter import report_failure
from .settings import KEY
from .status.progress import Progress, Report
from .store.files import FileStore
from .store.locks import InheritedLock

if TYPE_CHECKING:
    from .state import AppState

DONE, FAILED = 0, 1  # never 3 or 4: if gunicorn is process 1, these codes of an orphan would end the server
BEAT_EVERY = 0.5
# The process leaves this many seconds after its work, even if threads of the app have not ended by then.
LINGER = 5.0


def main() -> int:
    """Do what the orders on stdin say; return the exit code."""
    began = time.time()
    pipe = os.fdopen(os.dup(0), "rb")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    line = pipe.readline()
    if not line.endswith(b"\n"):
        pipe.close()
        return FAILED  # the worker died before it had written the orders; another one begins again
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
        # Importing an app computes, too. How long the interpreter has waited so far is mostly enough to decide.
        priority = Priority({} if orders["nice"] else None)
        priority.decide()
    limit_build(orders["timeout"])
    deadline = began + orders["timeout"]
    try:
        served = _import_app(orders)
        state = _find_state(orders, served)
        state.open()
    except BaseException as error:
        with pipe:
            return _refuse(orders, store, error, deadline)
    events.log_from(orders["log_level"])
    _answer(orders, "ready")
    if orders["wait"]:
        lower()
        pipe.readline()  # "go", or the end of the worker, which means the same
        priority = Priority()
    pipe.close()
    arguments = (state, priority, MEASURE_AFTER if orders["wait"] else 0.0)
    threading.Thread(target=_beat, args=arguments, name="warmcache-beat", daemon=True).start()
    try:
        state.rebuilder.rebuild_inherited(
            orders["name"],
            locks,
            orders["findings"],
            only_if_due=orders["only_if_due"],
            deadline=deadline,
            time_limit=ItemTimeLimit().limit,
        )
    except BaseException:
        report = state.statuses[orders["name"]].report
        if report is None or report.running:
            message = "the rebuild of %(list)r ended where nothing reports it"
            events.error("warmcache.child_failed", message, error=True, list=orders["name"])
        return FAILED  # otherwise it is logged, reported and counted already, even a sys.exit()
    return DONE


def _import_app(orders: dict[str, Any]) -> Any:
    """Import what gunicorn serves, as gunicorn does."""
    threads.in_child = True
    os.chdir(orders["folder"])
    sys.path[:] = orders["paths"]
    if orders["folder"] not in sys.path:
        sys.path.insert(0, orders["folder"])
    if orders["locks"]:  # otherwise it is the doctor's, beside which another child of the list may run
        share_files(orders["name"], orders["cache"])
    if orders["logging"]:
        _log_as_gunicorn(orders["logging"])
    from gunicorn.util import import_app

    return import_app(orders["app"])


def _find_state(orders: dict[str, Any], served: Any) -> AppState:
    """Return the one initialised extension that has this folder and this declaration of the list.

    :raises ChildError: if there is none, or if there are several candidates.
    """
    from . import state

    candidates = [candidate for candidate in list(state._states) if _has_list(candidate, orders)]
    if orders["served"]:
        # Importing the worker's URI gives the worker's own app, so another one beside it is not meant.
        extensions = getattr(served, "extensions", {})
        candidates = [one for one in candidates if one is extensions.get(KEY)] or candidates
    identity = (orders["name"], orders["code"])
    found = [
        candidate
        for candidate in candidates
        if identity in [(declared.name, declared.code) for declared in candidate.registry.close()]
    ]
    if len(found) == 1:
        return found[0]
    if candidates and not found:
        raise ChildError(
            f"list {orders['name']!r} is declared differently here than in the worker. If the app's code has "
            "changed since the server started, reload the server; otherwise set WARMCACHE_APP to how the app is "
            "imported."
        )
    raise ChildError(
        f"{len(found) or 'No'} apps imported by {orders['app']!r} keep a list {orders['name']!r} in the same "
        "folder; set WARMCACHE_APP to how the app is imported."
    )


def _has_list(state: AppState, orders: dict[str, Any]) -> bool:
    """Whether the app keeps a list of that name in that folder."""
    if state.settings.dir is None and state.app.testing:
        return False  # its folder would be a new one
    if os.path.realpath(state._folder()) != orders["cache"]:
        return False
    return orders["name"] in [declared.name for declared in state.registry.close()]


def _refuse(orders: dict[str, Any], store: FileStore, error: BaseException, deadline: float) -> int:
    """Say that there is no app to rebuild for: to the worker, or in the report if the worker is gone."""
    name = orders["name"]
    events.log_from(orders["log_level"])
    events.error("warmcache.child_refused", "the app for %(list)r was not found", error=error, list=name)
    reason = str(error) if isinstance(error, ChildError) else f"importing the app raised {type(error).__name__}"
    if not _answer(orders, f"refused: {reason}") and not orders["wait"]:
        progress = Progress(
            lambda report: store.write_progress(name, report),
            Report.read(store.read_progress(name)),
            runner="process",
            deadline=deadline,
            handed_over=True,
        )
        shortest, longest = orders["retry"]
        report_failure(name, ChildError(reason), progress, shortest, longest, store.published(name))
    return FAILED


def _answer(orders: dict[str, Any], text: str) -> bool:
    """Answer the worker; return False if it is gone."""
    try:
        os.write(orders["answering"], f"{text}\n".encode())
    except OSError:
        return False
    return True


def _log_as_gunicorn(settings: dict[str, Any]) -> None:
    """Set up logging as gunicorn has done in the worker; the app's import may rely on it."""
    from gunicorn.config import Config

    try:
        cfg = Config()
        for name, value in settings.items():
            cfg.set(name, value)
        cfg.logger_class(cfg)
    except Exception:
        message = "gunicorn's logging cannot be set up in a child process"
        events.warning("warmcache.child_logs_elsewhere", message, error=True)


def _beat(state: AppState, priority: Priority, pause: float) -> None:
    is_decided = False
    while True:
        time.sleep(pause)
        is_decided = is_decided or priority.decide()
        state.keeper.beat()
        pause = BEAT_EVERY


def _end(code: int) -> None:
    """Leave, even if threads of the app do not end."""
    leaving = threading.Timer(LINGER, os._exit, (code,))
    leaving.daemon = True
    leaving.start()
    sys.exit(code)


if __name__ == "__main__":
    _end(main())
