"""Where the values of gunicorn's settings in force come from, and which variables have no effect."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from gunicorn.config import make_settings

from .gunicorn_settings import (
    NO_SETTINGS,
    PREFIX,
    Choice,
    chosen_by_environment,
    companions,
    platform_choices,
    variables,
)

COMMAND_LINE, CMD_ARGS, FILE = "command line", "GUNICORN_CMD_ARGS", "configuration file"
CLOSE = 0.9  # the similarity of two names, up to 1


def follow(cfg: Any, outside: Collection[str], chosen: dict[str, Choice]) -> None:
    """Set again those of our settings that depend on what the command line has changed.

    :param outside: the result of ``outside_settings``.
    :param chosen: the settings that we have set.
    """
    for name, choice in companions(cfg.settings["worker_class"].get(), cfg.max_requests).items():
        if name in chosen and chosen[name].source == "default" and name not in outside:
            cfg.set(name, choice.value)
            chosen[name] = choice


def outside_settings(app: Any) -> dict[str, str]:
    """Return the settings on the command line or in GUNICORN_CMD_ARGS, and in which of the two each is.

    :param app: gunicorn's application; one that is embedded elsewhere has no command line.
    """
    from gunicorn.app.wsgiapp import WSGIApplication

    if not isinstance(app, WSGIApplication):
        return {}
    # From the environment that the process was started with; the server may have changed variables since.
    parser = app.cfg.parser()
    parsed: list[tuple[str, argparse.Namespace]] = [
        (CMD_ARGS, parser.parse_known_args(app.cfg.get_cmd_args_from_env())[0]),
        (COMMAND_LINE, parser.parse_known_args()[0]),
    ]
    return {
        name: source
        for source, arguments in parsed
        for name, value in vars(arguments).items()
        if value is not None and name in app.cfg.settings
    }


def sources(
    cfg: Any, outside: Mapping[str, str], chosen: Mapping[str, Choice], in_file: Collection[str] = ()
) -> dict[str, str]:
    """Return where each setting in force comes from, without those that are gunicorn's own defaults.

    :param outside: the result of ``outside_settings``.
    :param chosen: the settings that we have set.
    :param in_file: the settings in the configuration file, if known; otherwise those that differ from the default.
    """
    defaults, platform = make_settings(), platform_choices(cfg.env_orig)
    found = {}
    for name, setting in cfg.settings.items():
        value = setting.get()
        if name in outside:
            found[name] = outside[name]
        elif name in chosen and _as_set(setting, chosen[name].value) == value:
            found[name] = chosen[name].source
        elif name in in_file:
            found[name] = FILE
        elif name in platform and _as_set(setting, platform[name].value) == value:
            found[name] = platform[name].source
        elif value != defaults[name].get():
            found[name] = FILE
    return found


class Overruled(NamedTuple):
    """A variable whose value is not in force."""

    variable: str
    text: str
    setting: str
    value: Any  # in force
    source: str  # of the value in force

    def __str__(self) -> str:
        return f"{self.variable}={self.text} is not in force: {self.setting} is {self.value} ({self.source})"


def overruled(cfg: Any, found: Mapping[str, str]) -> list[Overruled]:
    """Return the variables of the server's environment that have no effect.

    :param found: the result of ``sources``.
    """
    environ, without_effect = cfg.env_orig, []
    for name, choice in (*platform_choices(environ).items(), *chosen_by_environment(environ).items()):
        value = cfg.settings[name].get()
        # PORT says nothing about the host, so the command line may name both and agree with it.
        is_port_bound = choice.source == "PORT" and _port(choice.value[0]) in map(_port, value)
        if value != choice.value and not is_port_bound:
            source = found.get(name, "gunicorn's default")
            without_effect.append(Overruled(choice.source, environ[choice.source], name, value, source))
    return without_effect


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _as_set(setting: Any, value: Any) -> Any:
    copy = setting.copy()
    copy.set(value)
    return copy.get()


def misspelt(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables that are almost named like a setting's variable, and that variable."""
    known = {variable for setting in make_settings().values() for variable in variables(setting)}
    others = [
        name for name in environ if name.startswith(PREFIX) and name not in known and name not in NO_SETTINGS
    ]
    near = [(name, difflib.get_close_matches(name, known, 1, CLOSE)) for name in sorted(others)]
    return [(name, matches[0]) for name, matches in near if matches]
