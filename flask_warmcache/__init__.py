"""Non-blocking cache warm-up for Flask: built once in the background, shared by every worker, served at once."""

from .errors import BadQueryError as BadQueryError
from .errors import DeclarationError as DeclarationError
from .errors import RebuildBusyError as RebuildBusyError
from .errors import RebuildError as RebuildError
from .errors import SettingError as SettingError
from .errors import SnapshotError as SnapshotError
from .errors import StoreError as StoreError
from .errors import UnknownListError as UnknownListError
from .errors import ViewError as ViewError
from .errors import WarmCacheError as WarmCacheError
from .extension import WarmCache as WarmCache
from .items import Items as Items
from .lists import WarmList as WarmList
from .lists import WarmValue as WarmValue
from .paging import Page as Page
from .rebuild.job import Outcome as Outcome
