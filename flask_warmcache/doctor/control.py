"""What a server says of itself over its control socket, which gunicorn has from 25.1 on."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any

import gunicorn
from gunicorn.config import Config
from gunicorn.workers import SUPPORTED_WORKERS

from ..host.gunicorn_settings import PREFIX, Choice, chosen_by_environment, platform_choices
from ..host.gunicorn_sources import Overruled, misspelt
from .processes import Server

ANSWERING = 5.0  # seconds
DEFAULT, UNKNOWN = "gunicorn's default", "source unknown"


def ask(server: Server) -> dict[str, Any] | None:
    """What ``effective`` prints, as far as it can be had without the server's command line and environment.

    :returns: None when this server has no socket at the place where gunicorn puts it, or does not answer.
    """
    try:
        from gunicorn.ctl.client import ControlClient, ControlClientError
    except ImportError:
        return None
    config = Config()
    try:
        with socket.socket(socket.AF_UNIX) as probe:  # the client leaves its own open when it cannot connect
            probe.settimeout(ANSWERING)
            probe.connect(config.control_socket)
        with ControlClient(config.control_socket, ANSWERING) as client:
            # Each gunicorn of an account takes the same place, and the last one answers.
            if client.send_command("show stats").get("pid") != server.pid:
                return None
            told = client.send_command("show config")
    except (ControlClientError, OSError, ValueError):
        return None
    values = {name: value for name, value in told.items() if name in config.settings}
    if found := re.search(r"'(.+)'", str(values.get("worker_class"))):
        names = {path: name for name, path in SUPPORTED_WORKERS.items()}
        values["worker_class"] = names.get(found[1], found[1])
    # With SPT_NOENV=1 the title leaves the environment alone; else ours is likely the same.
    environ = server.environ if "PATH" in server.environ else os.environ
    asked = _asked(environ)
    settings = {}
    for name, value in values.items():
        # gunicorn's defaults of workers and bind are made of our own environment.
        is_platform = name in asked and not asked[name].source.startswith(PREFIX)
        is_default = not is_platform and value == _default(config, name)
        settings[name] = {"value": value, "source": DEFAULT if is_default else UNKNOWN}
    overruled = [
        Overruled(choice.source, environ[choice.source], name, values[name], settings[name]["source"])
        for name, choice in asked.items()
        if name in values and values[name] != choice.value
    ]
    return {
        "version": gunicorn.__version__,
        "app": None,
        "folder": server.folder,
        "conf": None,
        "hooks": "unknown",
        "settings": settings,
        "misspelt": misspelt(environ),
        "overruled": [{**vain._asdict(), "said": str(vain)} for vain in overruled],
    }


def _default(config: Any, name: str) -> Any:
    return config.worker_class_str if name == "worker_class" else config.settings[name].get()


def _asked(environ: Mapping[str, str]) -> dict[str, Choice]:
    """What an environment asks for."""
    try:
        return {**platform_choices(environ), **chosen_by_environment(environ)}
    except ValueError:
        return {}  # which is said elsewhere
