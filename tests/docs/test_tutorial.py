"""The tutorial works: its files are written and its commands are run in the order of the page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from tests.support.ports import free_port
from tests.support.processes import CHECKOUT
from tests.support.waiting import until

from .pages import DOCS, Block, blocks

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = DOCS / "tutorial.md"
FILE = re.compile(r"(?:# |\{# )([\w./]+)(, continued)?(?: #\})?\n")
SECONDS = 240.0  # pip may have to wait for the network


class Reader:
    """A reader who does what the page says, in a shell of their own."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port = home, port
        self.server: subprocess.Popen[bytes] | None = None
        self.folder = home / "books"
        self.said = ""
        (home / "shell").write_text("")
        # What is installed here stands for what pip would install, and pip confirms that it is what was asked for.
        scripts, packages = sysconfig.get_path("scripts"), sysconfig.get_path("purelib")
        self._env = {
            name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")
        }
        self._env |= {
            "PATH": f"{scripts}{os.pathsep}{self._env['PATH']}",
            "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{packages}",
            "PORT": str(port),
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def follow(self, block: Block) -> None:
        """Do what one block says: write a file, run commands, or compare what they printed."""
        named = FILE.match(block.text)
        if named is not None:
            path = self.folder / named[1]
            path.parent.mkdir(exist_ok=True)
            with path.open("a" if named[2] else "x") as file:
                file.write(("\n\n" if named[2] else "") + block.text)
        elif block.text.startswith("gunicorn "):
            self._serve(block.text)
        elif block.language == "sh":
            self.said = self._run(block.text)
        elif block.language == "json":
            self._compare(json.loads(block.text))
        else:
            assert _without_figures(block.text) in _without_figures(self.said), self.said

    def close(self) -> None:
        """Stop the server."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(SECONDS)

    def _run(self, commands: str) -> str:
        """Run commands in the shell, where folder and variables stay as they are left."""
        commands = commands.replace("~/flask-warmcache", "flask-warmcache").replace(":8000", f":{self.port}")
        if commands.startswith("cd books\n") and (self.folder / "app.py").exists():
            (self.home / "shell").write_text("")  # a second terminal
        self._asked = commands
        script = f'source "{self.home}/shell"\nset -e\n{commands}\n'
        script += f'{{ declare -px; echo "cd \'$PWD\'"; }} >"{self.home}/shell"'
        ran = subprocess.run(
            ["bash", "-c", script], cwd=self.home, env=self._env, capture_output=True, text=True, timeout=SECONDS
        )
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def _serve(self, command: str) -> None:
        self.close()
        with (self.home / "server.log").open("wb") as log:
            self.server = subprocess.Popen(
                ["bash", "-c", f'source "{self.home}/shell"; exec {command}'],
                cwd=self.home, env=self._env, stdout=log, stderr=log,
            )  # fmt: skip
        until(self._is_served, self.log, SECONDS)

    def _is_served(self) -> bool:
        assert self.server is not None and self.server.poll() is None, self.log()
        try:
            urlopen(f"http://localhost:{self.port}/api/cache/livez", timeout=SECONDS).close()
        except OSError:
            return False
        return True

    def _compare(self, shown: dict[str, Any]) -> None:
        """The answer is the one that the page shows, once the list is there if it shows a complete one."""
        if not shown["cache_rebuilding"]:
            until(lambda: not self._ask_again()["cache_rebuilding"], "the list is rebuilt", SECONDS)
        assert json.loads(self.said) == shown

    def _ask_again(self) -> dict[str, Any]:
        self.said = self._run(self._asked.splitlines()[-1])
        answer: dict[str, Any] = json.loads(self.said)
        return answer

    def log(self) -> str:
        """Return what the server said."""
        return (self.home / "server.log").read_text()


def _without_figures(text: str) -> str:
    return re.sub(r"[\d.]+ s\b", "N s", re.sub(r"[ \t]+", " ", text)).strip()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    pytest.importorskip("flask_sqlalchemy")
    reader = Reader(tmp_path, free_port())
    yield reader
    reader.close()


def test_tutorial_works_as_it_is_written(reader: Reader) -> None:
    for block in blocks(PAGE):
        reader.follow(block)
    assert "3 passed" in reader.said or "already done" in reader.said
    assert "Traceback" not in reader.log() and "WARNING" not in reader.log(), reader.log()


def _split(page: list[Block]) -> tuple[list[Block], list[Block]]:
    """Divide the page in front of the command that serves the app with its template."""
    (template,) = (number for number, block in enumerate(page) if block.language == "html+jinja")
    return page[: template + 1], page[template + 1 :]


@pytest.mark.browser
def test_page_of_the_tutorial_fills_by_itself(reader: Reader, browser: Browser) -> None:
    before, (serve, *_) = _split(blocks(PAGE))
    reader.folder.mkdir()
    for block in [*filter(lambda block: FILE.match(block.text), before), Block("sh", "cd books\n"), serve]:
        reader.follow(block)
    page = browser.new_page()
    page.goto(f"http://localhost:{reader.port}/")
    page.locator("#books li", has_text="Book 20: 1 of 5").wait_for(timeout=1000 * SECONDS)
    assert page.locator("#books li").count() == 20
    page.close()
