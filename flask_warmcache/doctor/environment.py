"""Variables with which gunicorn does not start, and which its own errors do not always name."""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Iterator, MutableMapping

from .report import Report

NO_START = "gunicorn does not start in this environment."


def check_environment(report: Report, environ: MutableMapping[str, str], level: str) -> None:
    """Report what is wrong; remove a WEB_CONCURRENCY that would end this process, too.

    :param environ: this process's. A server that is running was started with a better one.
    :param level: of the findings.
    """
    for what, why in _problems(environ):
        report.add("environment.refused", level, what, why, "Correct it, or remove it from the environment.")


def _problems(environ: MutableMapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and what follows from it."""
    workers = environ.get("WEB_CONCURRENCY", "1")
    try:
        int(workers)
    except ValueError:
        del environ["WEB_CONCURRENCY"]  # gunicorn reads it while we import its configuration
        yield (
            f"WEB_CONCURRENCY must be a whole number of at least 1, not {workers!r}.",
            f'{NO_START} It only says "ValueError: invalid literal for int()", before it reads any configuration.',
        )
    from gunicorn.config import Config

    from ..host.gunicorn_settings import MEND, wrong_variables

    for problem in wrong_variables(environ):
        yield (
            problem.removesuffix(f" {MEND}"),
            "A server with our configuration ends at once, with the same message.",
        )
    output, arguments = io.StringIO(), environ.get("GUNICORN_CMD_ARGS", "")
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            Config().parser().parse_args(shlex.split(arguments))
    except ValueError as error:
        yield f"GUNICORN_CMD_ARGS cannot be parsed: {error}: {arguments}", NO_START
    except SystemExit as end:
        if end.code:
            problem = output.getvalue().splitlines()[-1].partition("error: ")[2]
            yield f"gunicorn refuses GUNICORN_CMD_ARGS: {problem}.", NO_START
