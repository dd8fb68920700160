"""Check the accessibility of a page with axe-core."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from tests.support.needs import node_module

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

# Contrast depends on the colours, and layout on the width; no rule needs all four combinations.
LOOKS: tuple[tuple[Literal["light", "dark"], int], ...] = (("light", 320), ("dark", 1280))


def violations(page: Page) -> list[Any]:
    """Return the violations of the page in its current state."""
    page.evaluate((node_module("axe-core") / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")
    return [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]]


def violations_in_every_look(page: Page) -> list[Any]:
    """Return the violations in light and dark colours, and in narrow and wide windows."""
    found = []
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        found += [(scheme, width, *one) for one in violations(page)]
    return found


def without_javascript(page: Page, url: str) -> None:
    """Open a page without its scripts; scripts stay enabled, because the checker is one."""

    def bare(route: Route) -> None:
        answer = route.fetch()
        body = re.sub(r"(?s)<script\b.*?</script>|</?noscript>", "", answer.text())
        route.fulfill(response=answer, body=body)

    page.route(url, bare)
    page.goto(url)
    assert page.evaluate("document.scripts.length") == 0
