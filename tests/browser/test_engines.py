"""Run the poller in the engines of Safari and Firefox, if Debian's WebKitGTK and Firefox are installed.

They are neither Safari nor a Firefox with its user's settings, so nothing fails for want of them, not even in CI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import until

from .fake_server import STATUS, FakeServer, serve

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

pytestmark = pytest.mark.browser

WIDGET = '<warmcache-status for="files"></warmcache-status>'
# Report to the server what the page shows, because no driver controls this browser.
REPORT = """
addEventListener("warmcache:refreshed", () => {
  setTimeout(() => {
    const text = (selector) => document.querySelector(selector).textContent;
    fetch(`/seen/${text("#files li")}/${encodeURIComponent(text("warmcache-status [role=status]"))}`);
  }, 500);
});
"""


def tool(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no {names[0]} on PATH; this engine is not tested")
    return found


@contextmanager
def screen() -> Iterator[str]:
    """Start an invisible display for programs that need one."""
    reading, writing = os.pipe()
    command = [tool("Xvfb"), "-displayfd", str(writing), "-screen", "0", "1000x800x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        try:
            with os.fdopen(reading) as said:
                yield f":{said.readline().strip()}"
        finally:
            server.terminate()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer(above=WIDGET)
    server.become("stale", "g1", ["old"], rebuilding=True)
    with serve(server) as served:
        yield served


@pytest.fixture(scope="module")
def webkit() -> Iterator[WebDriver]:
    selenium = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.webkitgtk.service")
    driver = tool("WebKitWebDriver")
    browsers = sorted(Path("/usr/lib").glob("*/webkit2gtk-4*/MiniBrowser"))
    if not browsers:
        pytest.skip("no MiniBrowser of WebKitGTK; this engine is not tested")
    with screen() as display, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", display)
        patch.setenv("WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS", "1")  # a container allows no sandbox
        patch.setenv("WEBKIT_DISABLE_COMPOSITING_MODE", "1")
        options = selenium.WebKitGTKOptions()
        options.binary_location = str(browsers[-1])
        options.add_argument("--automation")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # Selenium's driver calls deprecated functions of Selenium
            running = selenium.WebKitGTK(options=options, service=service.Service(driver))
        yield running
        running.quit()


def shows(tab: WebDriver, text: str) -> None:
    until(lambda: tab.execute_script("return document.querySelector('#files li').textContent") == text, text)


def test_webkit_swaps_announces_and_prompts(webkit: WebDriver, server: FakeServer) -> None:
    server.inside = "<input>"
    webkit.get(f"{server.url}/page")
    server.wait_for_hits(STATUS, 2)
    webkit.execute_script("document.querySelector('input').value = 'half a wo'")
    server.become("fresh", "g2", ["new"])
    button = "document.querySelector('warmcache-status button')"
    until(lambda: webkit.execute_script(f"return !{button}.hidden"), "button")
    shows(webkit, "old")
    webkit.execute_script(f"{button}.click()")
    shows(webkit, "new")
    line = "return document.querySelector('warmcache-status [role=status]').textContent"
    until(lambda: webkit.execute_script(line) == "Up to date", "word")


def test_webkit_keeps_the_page_in_its_back_forward_cache(webkit: WebDriver, server: FakeServer) -> None:
    webkit.get(f"{server.url}/page")
    server.wait_for_hits(STATUS, 2)
    webkit.execute_script("window.mark = 'the same document'")
    webkit.get(f"{server.url}/login")
    webkit.back()
    assert webkit.execute_script("return window.mark") == "the same document"
    server.become("fresh", "g2", ["new"])
    shows(webkit, "new")


def test_firefox_swaps_and_announces(server: FakeServer, tmp_path: Path) -> None:
    firefox = tool("firefox-esr", "firefox")
    (tmp_path / "report.js").write_text(REPORT)
    server.files["/report.js"] = tmp_path / "report.js"
    server.foot = '<script defer src="/report.js"></script>'
    command = [firefox, "--headless", "--no-remote", "--profile", str(tmp_path), f"{server.url}/page"]
    with subprocess.Popen(
        command,
        env=os.environ | {"HOME": str(tmp_path), "MOZ_DISABLE_CONTENT_SANDBOX": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        try:
            server.wait_for_hits(STATUS, 2)
            server.become("fresh", "g2", ["new"])
            server.wait_for_hits("/seen/new/Up to date", 1)
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, 9)
