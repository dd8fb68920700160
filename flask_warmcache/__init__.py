"""Non-blocking cache warm-up for Flask: built once in the background, shared by every worker, served at once.

All public names but most errors are imported when they are first asked for, so that gunicorn's own process, which
imports only ``flask_warmcache.gunicorn_conf``, loads neither Flask nor the rest.
"""

try:
    import fcntl as _fcntl  # noqa: F401
except ImportError:
    raise ImportError(
        "flask-warmcache needs Linux or another POSIX system: it locks files with flock(), which Windows lacks. "
        "On Windows, use WSL or a container."
    ) from None

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import BuildTimeoutError as BuildTimeoutError
from .errors import ChildError as ChildError
from .errors import ChildKilledError as ChildKilledError
from .errors import DeclarationError as DeclarationError
from .errors import ItemTimeoutError as ItemTimeoutError
from .errors import RebuildBusyError as RebuildBusyError
from .errors import RebuildError as RebuildError
from .errors import SettingError as SettingError
from .errors import SnapshotError as SnapshotError
from .errors import SourceShrunkError as SourceShrunkError
from .errors import StoreError as StoreError
from .errors import UnknownListError as UnknownListError
from .errors import ViewError as ViewError
from .errors import WarmCacheError as WarmCacheError

if TYPE_CHECKING:
    from .extension import WarmCache as WarmCache
    from .lists.warm_list import Items as Items
    from .lists.warm_list import WarmList as WarmList
    from .lists.warm_value import WarmValue as WarmValue
    from .query.pager import Page as Page
    from .query.parse import BadQueryError as BadQueryError
    from .rebuild.tools import Outcome as Outcome
    from .startup.lazy import LazyNotReadyError as LazyNotReadyError
    from .startup.tasks import TaskNotReadyError as TaskNotReadyError

_HOMES = {
    "WarmCache": "extension",
    "Items": "lists.warm_list",
    "WarmList": "lists.warm_list",
    "WarmValue": "lists.warm_value",
    "Page": "query.pager",
    "BadQueryError": "query.parse",
    "Outcome": "rebuild.tools",
    "LazyNotReadyError": "startup.lazy",
    "TaskNotReadyError": "startup.tasks",
}
__all__ = [*_HOMES, *(name for name in dir() if name.endswith("Error"))]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f".{_HOMES[name]}", __name__)
    return globals().setdefault(name, getattr(home, name))
