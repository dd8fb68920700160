from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.browser.axe import violations_in_every_look, without_javascript
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

    from tests.demo.conftest import Server

pytestmark = pytest.mark.browser

HAS_COVERS = "[...document.images].some((image) => image.src.includes('/covers/') && image.naturalWidth)"
SORTED = """() => {
    const names = [...document.querySelectorAll(".comic .name")].map((name) => name.textContent.toLowerCase());
    return names.length > 0 && names.every((name, place) => !place || names[place - 1] <= name);
}"""
TOPS = "[...document.querySelectorAll('.comic')].slice(0, 12).map((one) => one.getBoundingClientRect().top)"


def comics(page: Page) -> Locator:
    return page.locator(".comic")


def names(page: Page) -> list[str]:
    return page.locator(".comic .name").all_inner_texts()


def wait_for_total(page: Page, text: str) -> None:
    page.locator("#total", has_text=re.compile(f"^{text}$")).wait_for()


def wait_for(page: Page, expression: str, argument: object = None) -> None:
    """Evaluate the expression until it is true; the policy refuses the eval that ``wait_for_function`` needs."""
    until(lambda: page.evaluate(expression, argument), expression)


def wait_until_quiet(page: Page) -> None:
    page.locator("#rebuild").wait_for(state="hidden")


def count_of(page: Page, name: str) -> int:
    return int(page.locator(f"[data-filter={name}] .count").inner_text().replace(",", ""))


# Loading


def test_cold_page_fills_without_a_reload(cold_server: Server, page: Page) -> None:
    page.goto(cold_server.url)
    page.evaluate("window.sameDocument = true")
    wait_for_total(page, "120 comics")
    wait_until_quiet(page)
    assert comics(page).count() == 48
    assert page.locator(".skeleton").count() == 0
    assert page.evaluate("window.sameDocument")
    wait_for(page, HAS_COVERS)


def test_shown_list_is_not_fetched_again(server: Server, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    comics(page).first.wait_for()
    with page.expect_response(re.compile("/api/cache/stats/")):
        pass
    page.wait_for_timeout(2_000)  # a refresh would be spread over less time
    assert len([url for url in asked if "/api/files" in url]) == 1


def answer_cold(page: Page) -> None:
    """Answer the page as during the first rebuild."""
    cold = {"files": [], "page": 1, "per_page": 48, "total_files": 0, "total_pages": 1, "marked_count": 0}
    cold |= {"unmarked_count": 0, "duplicates_count": 0, "cache_rebuilding": True}
    progress = {"phase": "enrich", "done": 3214, "total": 10_300, "rate": 600.0, "eta_seconds": 12.0}
    status = {"state": "cold", "generation": None, "cache_rebuilding": True, "progress": progress}
    page.route("**/api/files?**", lambda route: route.fulfill(json=cold))
    page.route("**/api/cache/stats/*", lambda route: route.fulfill(json=status))


def test_cold_page_shows_placeholders_and_progress(server: Server, page: Page) -> None:
    answer_cold(page)
    page.goto(server.url)
    page.locator("#doing", has_text="Reading 3,214 of 10,300 comics, about 12 s left").wait_for()
    assert page.get_by_role("status").inner_text() == "Reading 3,214 of 10,300 comics, about 12 s left"
    assert page.locator(".skeleton").count() == 24
    assert page.locator("#comics").get_attribute("aria-busy") == "true"
    assert page.locator("#progress").evaluate("(bar) => Math.round(bar.value * 100)") == 31
    assert page.locator("#total").inner_text() == ""


def test_failed_fetch_can_be_retried(server: Server, context: BrowserContext) -> None:
    page = context.new_page()  # without the check for trouble: errors are expected
    page.route("**/api/files?**", lambda route: route.abort())
    page.goto(server.url)
    alert = page.get_by_role("alert")
    alert.get_by_text("The list could not be fetched").wait_for()
    with page.expect_request("**/api/files?**"):
        page.get_by_role("button", name="Try again").click()
    alert.get_by_text("The list could not be fetched").wait_for()
    page.unroute("**/api/files?**")
    page.locator("#again").dispatch_event("click")  # the page may try again by itself, and hide the button
    wait_for_total(page, "120 comics")
    alert.wait_for(state="hidden")


def test_offline_page_shows_a_warning(server: Server, context: BrowserContext) -> None:
    page = context.new_page()  # without the check for trouble: errors are expected
    page.goto(server.url)
    comics(page).first.wait_for()
    context.set_offline(True)
    page.get_by_role("alert").get_by_text("You are offline").wait_for()
    context.set_offline(False)
    page.get_by_role("alert").wait_for(state="hidden")


def test_error_of_the_folder_is_shown_beside_the_comics(server: Server, page: Page) -> None:
    answer = server.get("/api/files", per_page=48)
    page.route("**/api/files?**", lambda route: route.fulfill(json=answer.json() | {"cache_rebuilding": True}))
    failed = {"state": "failed", "generation": "g1", "cache_rebuilding": False, "last_error": "OSError"}
    page.route("**/api/cache/stats/*", lambda route: route.fulfill(json=failed))
    page.goto(server.url)
    page.get_by_role("alert").get_by_text("The folder could not be read (OSError).").wait_for()
    assert comics(page).count() == 48


# Marking


def test_mark_is_shown_at_once_and_kept(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/?filter=unmarked")
    comics(page).first.wait_for()
    wait_until_quiet(page)
    marked, unmarked = count_of(page, "marked"), count_of(page, "unmarked")
    path = comics(page).first.get_attribute("data-path")
    page.locator(f'[data-path="{path}"] [data-mark=processed]').click()
    page.locator(f'[data-path="{path}"]').wait_for(state="detached")  # the updated list has it as marked
    page.locator("[data-filter=marked] .count", has_text=str(marked + 1)).wait_for()
    assert count_of(page, "unmarked") == unmarked - 1
    wait_until_quiet(page)
    files = server.get("/api/files", per_page=120).json()["files"]
    item = next(file for file in files if file["path"] == path)
    assert (item["processed"], item["web_modified"]) == (True, True)


def test_mark_is_shown_before_the_server_answers(server: Server, page: Page) -> None:
    page.goto(server.url)
    button = comics(page).first.locator("[data-mark=duplicate]")
    was = button.get_attribute("aria-pressed")
    now = "false" if was == "true" else "true"
    page.route("**/api/files/mark", lambda route: None)  # the server never answers
    button.click()
    comics(page).first.locator(f"[data-mark=duplicate][aria-pressed={now}]").wait_for()
    page.unroute_all(behavior="ignoreErrors")


def test_refused_mark_is_undone_with_an_error(server: Server, context: BrowserContext) -> None:
    page = context.new_page()  # without the check for trouble: errors are expected
    page.route("**/api/files/mark", lambda route: route.fulfill(status=403, json={"error": "Not today."}))
    page.goto(server.url)
    button = comics(page).first.locator("[data-mark=duplicate]")
    was = button.get_attribute("aria-pressed")
    button.click()
    page.get_by_role("alert").get_by_text("Not marked: Not today.").wait_for()
    assert button.get_attribute("aria-pressed") == was


def test_mark_in_one_tab_is_shown_in_another(server: Server, page: Page, context: BrowserContext) -> None:
    page.goto(server.url)
    comics(page).first.wait_for()
    wait_until_quiet(page)
    path = comics(page).first.get_attribute("data-path")
    marked = f'[data-path="{path}"] [data-mark=duplicate][aria-pressed='
    other = context.new_page()
    other.goto(server.url)
    comics(other).first.wait_for()
    now = "false" if other.locator(f"{marked}true]").count() else "true"
    other.locator(f'[data-path="{path}"] [data-mark=duplicate]').click()
    page.locator(f"{marked}{now}]").wait_for()
    assert page.evaluate("performance.getEntriesByType('navigation').length") == 1


# Searching and sorting


def test_search_is_kept_in_the_address(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/?view=table")
    wait_for_total(page, "120 comics")
    word = names(page)[0].split()[1]
    page.get_by_role("searchbox").fill(word)
    page.locator("#total", has_text="found").wait_for()
    assert all(word.lower() in text.lower() for text in page.locator(".comic").all_inner_texts())
    found = page.locator("#total").inner_text()
    assert f"search={word}" in page.url
    page.reload()
    wait_for_total(page, found)
    assert page.get_by_role("searchbox").input_value() == word


def test_field_sends_nothing_that_the_api_refuses(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/?view=table")
    wait_for_total(page, "120 comics")
    word = names(page)[0].split()[1]
    for text in (f"{word} " * 7, word + 200 * " " + "x", f" {word}\x85{word} {word}\x1c{word} {word}\u2003{word}"):
        page.get_by_role("searchbox").evaluate("(field) => field.removeAttribute('maxlength')")
        page.get_by_role("searchbox").fill(text)
        page.locator("#total", has_text="found").wait_for()
        page.get_by_role("searchbox").fill("")
        wait_for_total(page, "120 comics")
    page.goto(f"{server.url}/?search={'%F0%9F%98%80' * 120}")
    page.get_by_text("No comics match.").wait_for()


def test_empty_search_result_offers_all_comics(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/?search=no+such+comic")
    page.get_by_text("No comics match.").wait_for()
    page.get_by_role("button", name="Show all comics").click()
    wait_for_total(page, "120 comics")
    assert page.get_by_role("searchbox").input_value() == ""


def test_filters_match_their_counts(server: Server, page: Page) -> None:
    page.goto(server.url)
    wait_for_total(page, "120 comics")
    for name in ("marked", "unmarked", "duplicates"):
        chip = page.locator(f"[data-filter={name}]")
        chip.click()
        wait_for_total(page, f"{count_of(page, name)} comics")
        assert chip.get_attribute("aria-pressed") == "true"
    assert count_of(page, "marked") + count_of(page, "unmarked") == 120


def test_order_can_be_chosen_and_reversed(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/?view=table")
    comics(page).first.wait_for()
    page.locator("#sort").select_option("name")
    page.locator("th[aria-sort=ascending][data-sort=name]").wait_for()
    wait_for(page, SORTED)
    first = names(page)[0]
    page.get_by_role("button", name="A to Z").click()
    page.locator(".comic .name", has_text=first).wait_for(state="detached")
    assert names(page) == sorted(names(page), key=str.casefold, reverse=True)
    page.locator("th[data-sort=size] button").click()
    page.locator("th[data-sort=size][aria-sort=descending]").wait_for()
    assert page.locator("#direction").inner_text() == "Largest first"


def test_pages_work_with_the_back_button(server: Server, page: Page) -> None:
    page.goto(server.url)
    comics(page).first.wait_for()
    first = comics(page).first.get_attribute("data-path")
    page.get_by_role("link", name="Next").click()
    page.locator('.pages [aria-current=page]:text-is("2")').wait_for()
    page.locator(f'[data-path="{first}"]').wait_for(state="detached")
    page.get_by_role("link", name="Page 3").click()
    page.locator('.pages [aria-current=page]:text-is("3")').wait_for()
    assert comics(page).count() == 120 - 2 * 48
    page.go_back()
    page.go_back()
    page.locator(f'[data-path="{first}"]').wait_for()
    page.locator("#per-page").select_option("192")
    wait_for(page, "document.querySelectorAll('.comic').length === 120")


def test_page_beyond_the_last_becomes_the_last(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/?page=999")
    page.locator('.pages [aria-current=page]:text-is("3")').wait_for()


def test_refresh_requests_one_rebuild(cold_server: Server, page: Page) -> None:
    cold_server.settle()
    page.goto(cold_server.url)
    wait_for_total(page, "120 comics")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "refresh=true" in request.url else None)
    with page.expect_response(re.compile("refresh=true")) as answer:
        page.get_by_role("button", name="Refresh").click()
    assert answer.value.ok
    wait_until_quiet(page)
    wait_for_total(page, "120 comics")
    assert len(asked) == 1


# Accessibility and layout


def test_keyboard_operates_everything(server: Server, page: Page) -> None:
    page.goto(server.url)
    comics(page).first.wait_for()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("zzz")
    page.get_by_text("No comics match.").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "search"
    page.get_by_role("button", name="Show all comics").press("Enter")
    wait_for_total(page, "120 comics")
    page.get_by_role("button", name="Table").press("Space")
    page.locator("tr.comic").first.wait_for()
    button = page.locator("tr.comic").first.locator("[data-mark=duplicate]")
    was = button.get_attribute("aria-pressed")
    with page.expect_response("**/api/files/mark"):
        button.press("Enter")
    wait_until_quiet(page)
    assert button.get_attribute("aria-pressed") != was
    assert button.evaluate("(button) => button === document.activeElement"), "the rebuild took the focus away"


def test_removed_comic_passes_its_focus_on(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/?filter=duplicates")
    comics(page).nth(1).wait_for()
    gone, next_one = (comics(page).nth(place).get_attribute("data-path") for place in (0, 1))
    comics(page).first.locator("[data-mark=duplicate]").press("Enter")
    page.locator(f'[data-path="{gone}"]').wait_for(state="detached")
    wait_for(page, "(path) => document.activeElement.closest('.comic')?.dataset.path === path", next_one)


@pytest.mark.parametrize("view", ["grid", "table"])
@pytest.mark.parametrize("width", [320, 390, 700, 1280])
def test_narrow_window_does_not_scroll_sideways(server: Server, page: Page, width: int, view: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{server.url}/?view={view}")
    comics(page).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("view", ["grid", "table"])
def test_page_is_accessible(server: Server, page: Page, view: str) -> None:
    page.goto(f"{server.url}/?view={view}")
    comics(page).first.wait_for()
    wait_until_quiet(page)
    assert violations_in_every_look(page) == []


def test_waiting_or_failed_page_is_accessible(server: Server, context: BrowserContext) -> None:
    page = context.new_page()  # without the check for trouble: errors are expected
    answer_cold(page)
    page.goto(server.url)
    page.locator("#doing", has_text="Reading").wait_for()
    assert violations_in_every_look(page) == []
    page.route("**/api/files?**", lambda route: route.abort())
    page.goto(server.url)
    page.get_by_role("alert").get_by_text("The list could not be fetched").wait_for()
    assert violations_in_every_look(page) == []


def test_page_without_javascript_is_accessible(server: Server, page: Page) -> None:
    without_javascript(page, f"{server.url}/")
    page.get_by_text("JavaScript, which is switched off").wait_for()
    assert violations_in_every_look(page) == []


def test_theme_follows_the_system_until_chosen(server: Server, page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    page.goto(server.url)
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Dark colours").click()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate(ground) == dark


def test_pressed_buttons_are_visible_in_forced_colours(server: Server, page: Page) -> None:
    page.emulate_media(forced_colors="active")
    page.goto(server.url)
    comics(page).first.wait_for()
    ground = "(chip) => getComputedStyle(chip).backgroundColor"
    pressed, other = (page.locator(f"[data-filter={name}]").evaluate(ground) for name in ("all", "marked"))
    assert pressed != other


def test_layout_reserves_space_for_covers(server: Server, page: Page) -> None:
    page.route("**/covers/**", lambda route: None)  # they never arrive
    page.goto(f"{server.url}/?filter=marked")
    comics(page).nth(12).wait_for()
    without = page.evaluate(TOPS)
    page.unroute_all(behavior="ignoreErrors")
    page.reload()
    comics(page).nth(12).wait_for()
    wait_for(page, HAS_COVERS)
    assert page.evaluate(TOPS) == without


def test_names_of_files_are_never_markup(server: Server, page: Page) -> None:
    evil = '<img src=x onerror="window.owned = true">'
    item = server.get("/api/files").json()["files"][0]
    item |= {"series": evil, "title": evil, "name": evil, "relative_path": evil, "error": evil, "path": evil}
    answer = server.get("/api/files").json() | {"files": [item], "cache_rebuilding": False}
    page.route("**/api/files?**", lambda route: route.fulfill(json=answer))
    for view in ("grid", "table"):
        page.goto(f"{server.url}/?view={view}")
        assert evil in comics(page).first.inner_text()
    assert not page.evaluate("'owned' in window")
