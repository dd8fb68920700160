"""Print the settings that gunicorn makes of a command line and an environment.

Run as ``python -m flask_warmcache.doctor.effective`` with the server's arguments, environment and working folder,
this reads the configuration as gunicorn does, and prints it as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from gunicorn import __version__
from gunicorn.app.wsgiapp import WSGIApplication

from ..host import gunicorn_sources

OUR_CONF = "flask_warmcache.gunicorn_conf"


class Reader(WSGIApplication):
    """gunicorn's application, which records what its configuration file has set, and serves nothing."""

    conf: str | None = None
    in_file: frozenset[str] = frozenset()

    def load_config_from_module_name_or_filename(self, location: str) -> Any:
        namespace = super().load_config_from_module_name_or_filename(location)
        self.conf, self.in_file = location, frozenset(namespace)
        return namespace


def main() -> None:
    """Print the settings in force."""
    sys.argv[0] = "gunicorn"
    sys.path.insert(0, os.getcwd())  # only now: see SAFE in keeper/children.py
    app: Any = Reader("%(prog)s [OPTIONS] [APP_MODULE]", prog="gunicorn")
    cfg = app.cfg
    conf = sys.modules.get(OUR_CONF)
    chosen = {} if conf is None else conf._chosen
    outside = gunicorn_sources.outside_settings(app)
    gunicorn_sources.follow(cfg, outside, chosen)
    sources = gunicorn_sources.sources(cfg, outside, chosen, app.in_file)
    hooks = "none" if conf is None else "ours" if cfg.post_worker_init in conf._hooks else "lost"
    settings = {
        name: {"value": setting.get(), "source": sources.get(name, "gunicorn's default")}
        for name, setting in cfg.settings.items()
    }
    settings["worker_class"]["value"] = cfg.worker_class_str  # sync with threads is gthread
    overruled = gunicorn_sources.overruled(cfg, sources)
    answer = {
        "version": __version__,
        "app": app.app_uri,
        "folder": cfg.chdir,
        "conf": app.conf,
        "hooks": hooks,
        "settings": settings,
        "misspelt": gunicorn_sources.misspelt(cfg.env_orig),
        "overruled": [{**variable._asdict(), "message": str(variable)} for variable in overruled],
    }
    print(json.dumps(answer, default=_plain))


def _plain(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else str(value)


if __name__ == "__main__":
    main()
