"""Variables with which no gunicorn starts, and which its own errors do not always name."""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Iterator, MutableMapping

from .finding import Report

NO_START = "No gunicorn starts in this environment."


def check_environment(report: Report, environ: MutableMapping[str, str], level: str) -> None:
    """Note what is wrong; a WEB_CONCURRENCY that would end us, too, is taken out.

    :param environ: this process's: a server that runs was given a better one.
    :param level: of what is found.
    """
    for what, why in _problems(environ):
        report.add(
            "environment.refused", level, what, why, "Correct it, or take it out of the environment."
        )  # fmt: skip


def _problems(environ: MutableMapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong, and what comes of it."""
    workers = environ.get("WEB_CONCURRENCY", "1")
    try:
        int(workers)
    except ValueError:
        del environ["WEB_CONCURRENCY"]  # gunicorn reads it while we import its configuration
        yield (
            f"WEB_CONCURRENCY must be a whole number of at least 1, not {workers!r}.",
            f'{NO_START} It says "ValueError: invalid literal for int()" and not why, before any configuration is '
            "read.",
        )
    from gunicorn.config import Config

    from ..host.gunicorn_settings import MEND, wrong_variables

    for problem in wrong_variables(environ):
        yield problem.removesuffix(f" {MEND}"), "A server with our configuration ends at once, and says the same."
    said, arguments = io.StringIO(), environ.get("GUNICORN_CMD_ARGS", "")
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            Config().parser().parse_args(shlex.split(arguments))
    except ValueError as error:
        yield f"GUNICORN_CMD_ARGS cannot be read: {error}: {arguments}", NO_START
    except SystemExit as end:
        if end.code:
            problem = said.getvalue().splitlines()[-1].partition("error: ")[2]
            yield f"GUNICORN_CMD_ARGS is refused: {problem}.", NO_START
