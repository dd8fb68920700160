"""A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket, ended with them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.needs import missing
from tests.support.waiting import until

DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path:
    """The folder of the newest PostgreSQL's programs; Debian does not put them on PATH."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    if not found:
        missing("no PostgreSQL. On Debian: apt-get install --no-install-recommends postgresql")
    return found[-1].parent


class Cluster:
    """A running PostgreSQL server that logs every statement which changes a schema."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log_path = folder / "log"

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://warmcache@/postgres?host={self._folder}"

    @property
    def tables_created(self) -> list[str]:
        """The statements, in the words of the server's own log."""
        return [line for line in self.log.splitlines() if "CREATE TABLE" in line]


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server of our own, which nobody else can reach, run without any rights of root."""
    bin_folder = programs()
    # Not in the test's folder, whose path is too long for a socket's and closed to other accounts.
    folder = Path(tempfile.mkdtemp(prefix="warmcache-pg-"))
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam("nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    try:
        made = subprocess.run(
            [bin_folder / "initdb", "-D", data, "-U", "warmcache", "-A", "trust", "-E", "UTF8", "--no-sync"],
            cwd=folder, env=environment, text=True, capture_output=True, timeout=120, **as_user,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        options = {
            "listen_addresses": "",
            "unix_socket_directories": folder,
            "log_statement": "ddl",
            "fsync": "off",
        }
        command: list[Any] = [bin_folder / "postgres", "-D", data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        running = Cluster(folder)
        with open(running._log_path, "wb") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, **as_user)
        try:
            until(lambda: "ready to accept connections" in running.log, lambda: f"PostgreSQL:\n{running.log}")
            yield running
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, with all its children
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
