"""Which values gunicorn's settings get: from the environment, the app's own configuration file, or the machine.

gunicorn itself reads hardly any environment variable: it ignores GUNICORN_TIMEOUT=300.  We read every
GUNICORN_<SETTING>.  The order of precedence is: command line, GUNICORN_CMD_ARGS, GUNICORN_<SETTING>, the app's own
configuration file, WEB_CONCURRENCY and PORT, our defaults.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

from gunicorn import util, version_info
from gunicorn.config import make_settings

from . import resources

PREFIX = "GUNICORN_"
# In the order in which the log's first line and the doctor show them.
SHOWN = (
    "timeout", "worker_class", "workers", "threads", "graceful_timeout", "keepalive", "max_requests",
    "max_requests_jitter", "preload_app", "worker_tmp_dir", "bind",
)  # fmt: skip
# gunicorn's own variables, the name of an environment by other tools' convention, and one that was read before.
NO_SETTINGS = {"GUNICORN_CMD_ARGS", "GUNICORN_FD", "GUNICORN_PID", "GUNICORN_ENV", "GUNICORN_CONFIG"}
BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
MIB = 1 << 20
# gunicorn's documentation: 4 to 12 processes are enough for thousands of requests a second.
MOST_WORKERS = 12
# Measured (USS of a worker with 4 threads after 2000 requests): 25 MiB for plain Flask, 63 with SQLAlchemy and
# Pillow, 96 with pandas as well.  The rest is for the peaks of requests, at which hosts kill processes.
WORKER_MEMORY = 160 * MIB
# Kept free for a rebuilding child: the same app and, measured, 20 MiB for a list of 10,300 items.
CHILD_MEMORY = 160 * MIB
THREADS = 4
MAX_REQUESTS = 20_000
# Measured: up to gunicorn 23, a gthread worker that ends loses about one connection each time.
DROPS_CONNECTIONS = version_info < (24,)
TMPFS = ("tmpfs", "ramfs")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
MEND = "Correct it, or take it out of the environment."
# Checks that gunicorn makes only in its workers, or whose errors do not name the variable.
MEANINGS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "workers": ("must be at least 1", lambda number: number >= 1),
    "threads": ("must be at least 1", lambda number: number >= 1),
    "worker_class": ("must be one of gunicorn's worker classes, installed with what it needs", util.load_class),
    "worker_tmp_dir": ("must be a folder", os.path.isdir),
    "loglevel": (f"must be one of {', '.join(LOG_LEVELS)}", lambda level: level.lower() in LOG_LEVELS),
    "bind": ("must be addresses like 0.0.0.0:8000", lambda addresses: [*map(util.parse_address, addresses)]),
}


class Choice(NamedTuple):
    """A value that we chose for a setting, and where it comes from."""

    value: Any
    source: str


def defaults(*, small: bool = False) -> dict[str, Choice]:
    """Return what we choose for this machine, or for the container that we run in.

    :param small: for hosts of 512 MB: the app is loaded once and forked, and there are at most two workers.
    """
    cores, memory = resources.cores(), resources.memory()
    workers = min(2 if small else MOST_WORKERS, cores + 1)
    why = f"default, {cores} {'core' if cores == 1 else 'cores'}"
    if memory is not None:
        fitting = max(1, (memory - CHILD_MEMORY) // WORKER_MEMORY)
        if fitting < workers:
            workers, why = fitting, f"default, {memory // MIB} MiB of memory"
    chosen = {
        "workers": Choice(workers, why),
        "worker_class": Choice("gthread", "default"),
        # Long enough for one long call into C, short enough to replace a hanging worker soon.
        "timeout": Choice(60, "default"),
        # Below the 30 s after which Kubernetes and many other hosts kill a process.
        "graceful_timeout": Choice(25, "default"),
        "keepalive": Choice(5, "default"),
        # Frees leaked memory; high enough that it hardly ever interrupts a rebuild.
        "max_requests": Choice(0 if DROPS_CONNECTIONS else MAX_REQUESTS, "default"),
    }
    if os.environ.get("PORT", "8000").strip() == "":
        # gunicorn would try to bind "0.0.0.0:", and fail because '' is not a port.
        chosen["bind"] = Choice(["127.0.0.1:8000"], "default, PORT is empty")
    folder = shared_memory()
    if folder is not None:
        chosen["worker_tmp_dir"] = Choice(folder, "default, tmpfs")
    if small:
        chosen["preload_app"] = Choice(True, "default for small hosts")
    return chosen


def shared_memory(folder: str = "/dev/shm", mounts: str = "/proc/self/mounts") -> str | None:
    """Return the folder for heartbeat files if it is in memory and writable; a slow disk would block workers."""
    try:
        rows = [line.split(" ") for line in resources.lines_of(mounts)]
    except OSError:
        return None
    kinds = {fields[1]: fields[2] for fields in rows if len(fields) > 2}
    return folder if kinds.get(folder) in TMPFS and os.access(folder, os.W_OK | os.X_OK) else None


def fill(namespace: MutableMapping[str, Any], chosen: dict[str, Choice]) -> dict[str, Choice]:
    """Set in a configuration file's namespace what it leaves open and what the environment sets, and return that.

    :param chosen: our defaults.
    :raises ValueError: for a variable with a wrong value, by name.
    """
    settings = make_settings()
    theirs = {name for name in namespace if name in settings}
    asked = {**platform_choices(os.environ), **chosen_by_environment(os.environ)}
    made: dict[str, Choice] = {}
    for name, choice in {**chosen, **asked}.items():
        if name not in theirs or choice.source.startswith(PREFIX):
            namespace[name] = choice.value
            made[name] = choice
    # Settings that depend on others, unless they are set already.
    for name, choice in companions(namespace["worker_class"], namespace["max_requests"]).items():
        if name not in namespace:
            namespace[name] = choice.value
            made[name] = choice
    return made


def companions(worker_class: object, max_requests: int) -> dict[str, Choice]:
    """Return the settings that depend on others.

    gunicorn turns "sync" with threads into "gthread", so "sync" gets one thread.  Without jitter all workers would
    end at the same moment.
    """
    return {
        "threads": Choice(THREADS if worker_class == "gthread" else 1, "default"),
        "max_requests_jitter": Choice(int(max_requests) // 4, "default"),
    }


def chosen_by_environment(environ: Mapping[str, str]) -> dict[str, Choice]:
    """Return what GUNICORN_<SETTING> variables set; an empty one sets nothing.

    :raises ValueError: for a wrong value, by the variable's name.
    """
    chosen = {}
    for name, setting in make_settings().items():
        for variable in variables(setting):
            text = environ.get(variable, "").strip()
            if text and name not in chosen:
                chosen[name] = Choice(_value(variable, setting, text), variable)
    return chosen


def variables(setting: Any) -> list[str]:
    """Return a setting's variables: GUNICORN_KEEPALIVE by its name, then GUNICORN_KEEP_ALIVE by its option."""
    options = [option[2:].replace("-", "_") for option in setting.cli or () if option.startswith("--")]
    names = [PREFIX + name.upper() for name in [setting.name, *options]] if setting.cli else []
    return [name for name in dict.fromkeys(names) if name not in NO_SETTINGS]


def platform_choices(environ: Mapping[str, str]) -> dict[str, Choice]:
    """Return what WEB_CONCURRENCY and PORT set.  Hosts set these on their own, so a configuration file wins.

    :raises ValueError: for a wrong value, by the variable's name.
    """
    chosen = {}
    workers, port = environ.get("WEB_CONCURRENCY", "").strip(), environ.get("PORT", "").strip()
    if workers:
        if not (re.fullmatch(r"\d+", workers) and int(workers) > 0):
            raise ValueError(f"WEB_CONCURRENCY must be a whole number of at least 1, not {workers!r}. {MEND}")
        chosen["workers"] = Choice(int(workers), "WEB_CONCURRENCY")
    if port:
        if not (re.fullmatch(r"\d+", port) and 0 < int(port) < 65536):
            raise ValueError(f"PORT must be a whole number from 1 to 65535, not {port!r}. {MEND}")
        chosen["bind"] = Choice([f"0.0.0.0:{port}"], "PORT")
    return chosen


def wrong_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the errors with which a server in this environment would refuse our configuration."""
    for read in (platform_choices, chosen_by_environment):
        try:
            read(environ)
        except ValueError as error:
            yield str(error)


def _value(variable: str, setting: Any, text: str) -> Any:
    """Return a variable's text as the setting's value, checked as gunicorn does, and by ``MEANINGS``."""
    is_switch = setting.action in ("store_true", "store_false")
    number = "must be a whole number, 0 or more"
    problem = "must be true or false" if is_switch else number if setting.type else "is refused"
    try:
        value: Any = BOOLEANS[text.lower()] if is_switch else setting.type(text) if setting.type else text
        setting.set(text.split(",") if setting.action == "append" else value)
        if setting.name in MEANINGS:
            problem, fits = MEANINGS[setting.name]
            if not fits(text if setting.name == "worker_class" else setting.get()):
                raise ValueError
    except Exception as error:
        why = f" ({error})" if problem == "is refused" else ""
        raise ValueError(f"{variable} {problem}, not {text!r}{why}. {MEND}") from None
    return setting.get()
