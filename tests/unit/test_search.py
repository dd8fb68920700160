"""Search: words anywhere in an item's text, in any case, within a time budget."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, Literal
from unicodedata import normalize

import pytest

from flask_warmcache.store import search as search_module
from flask_warmcache.store.search import search
from tests.support.shelf import Shelf, declare

Form = Literal["NFC", "NFD"]


def titled(*titles: Any) -> list[dict[str, Any]]:
    return [{"path": str(number), "title": title} for number, title in enumerate(titles)]


def found(shelf: Shelf, words: str) -> list[int]:
    positions, complete = search(shelf.snapshot(), words, 60)
    assert complete
    return positions


def test_word_is_found_anywhere_in_any_field_in_source_order(shelf: Shelf) -> None:
    shelf.rebuild(titled("Batman", "The Bat", "Robin", "acrobat"), search=("title", "path"))
    assert found(shelf, "bat") == [0, 1, 3]
    assert found(shelf, "2") == [2]
    assert found(shelf, "cat") == []


def test_case_is_folded_as_unicode_says(shelf: Shelf) -> None:
    shelf.rebuild(titled("Große STRASSE", "ÉCOLE", "ΣΊΣΥΦΟΣ", "İstanbul"), search=("title",))
    assert found(shelf, "GROSSE straße") == [0]
    assert found(shelf, "école") == [1]
    assert found(shelf, "σίσυφος") == [2]
    assert found(shelf, "İSTANBUL".casefold()) == [3]


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["Astérix", "ÉCOLE", "Ω", "ǰuš", "한글", "ᾳ", "Ệ"])
def test_composed_and_decomposed_forms_are_found_alike(shelf: Shelf, stored: Form, asked: Form, name: str) -> None:
    shelf.rebuild(titled(f"The {normalize(stored, name)} Book", "Book"), search=("title",))
    for query in (name, name.upper(), name.casefold()):
        assert found(shelf, normalize(asked, query)) == [0]


def test_every_word_must_occur_in_any_order(shelf: Shelf) -> None:
    shelf.rebuild(titled("green arrow", "arrow", "green", "green lantern arrow"), search=("title",))
    assert found(shelf, "arrow green") == [0, 3]
    assert found(shelf, "green arrow lantern") == [3]
    assert found(shelf, "arrow arrow") == [0, 1, 3]


def test_no_match_crosses_items_or_fields(shelf: Shelf) -> None:
    shelf.rebuild([{"path": "1", "a": "one", "b": "two"}, {"path": "2", "a": "three", "b": ""}], search=("a", "b"))
    assert found(shelf, "onetwo") == []
    assert found(shelf, "twothree") == []
    assert found(shelf, "two three") == []
    assert found(shelf, "one two") == [0]


def test_text_without_valid_encoding_is_searched_too(shelf: Shelf) -> None:
    shelf.rebuild(titled("a\udcffb", "ab"), search=("title",))
    assert found(shelf, "\udcff") == [0]
    assert found(shelf, "a") == [0, 1]


def test_numbers_lists_and_missing_fields_are_text(shelf: Shelf) -> None:
    shelf.rebuild(titled(1954, ["Stan Lee", ["Kirby", 3.5]], None, "", True), search=("title", "none"))
    assert found(shelf, "195") == [0]
    assert found(shelf, "lee kirby 3.5") == [1]
    assert found(shelf, "none") == []
    assert found(shelf, "true") == [4]


def test_line_ends_do_not_split_item(shelf: Shelf) -> None:
    shelf.rebuild(titled("one\ntwo\r\nthree\x1cfour", "five"), search=("title",))
    assert found(shelf, "one four") == [0]
    assert found(shelf, "five") == [1]


def test_no_words_find_everything(shelf: Shelf) -> None:
    shelf.rebuild(titled("a", "b"), search=("title",))
    assert found(shelf, "  ") == [0, 1]


def test_slices_end_between_items(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = ["x" * length + " end" for length in range(1, 60)]
    shelf.rebuild(titled(*titles), search=("title",))
    monkeypatch.setattr(search_module, "SLICE", 16)
    assert found(shelf, "end") == list(range(59))
    assert found(shelf, "x" * 40 + " end") == list(range(39, 59))


def test_search_over_budget_returns_what_it_found(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(titled(*["common"] * 1000), search=("title",))
    positions, complete = search(shelf.snapshot(), "common", 1e-9)
    assert (positions, complete) == (list(range(search_module.READ_CLOCK_EVERY)), False)
    # The search for a word that occurs nowhere ends after a slice.
    monkeypatch.setattr(search_module, "SLICE", 256)
    assert search(shelf.snapshot(), "rare", 1e-9) == ([], False)
    assert search(shelf.snapshot(), "rare", 60) == ([], True)


def test_searches_at_same_time_share_budget(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(titled(*["common"] * 3000), search=("title",))

    def reach() -> int:
        ticks = itertools.count()
        monkeypatch.setattr(search_module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
        return len(search(shelf.snapshot(), "common", 40)[0])

    assert reach() == 41 * search_module.READ_CLOCK_EVERY
    monkeypatch.setattr(search_module, "_running", {1, 2, 3})
    assert reach() == 11 * search_module.READ_CLOCK_EVERY
    assert search_module._running == {1, 2, 3}


def test_answer_says_that_search_is_incomplete(shelf: Shelf) -> None:
    shelf.rebuild(titled(*["common"] * 200), search=("title",))
    declaration = declare(search=("title",))
    hurried = shelf.ask(shelf.pager(declaration, search_budget=1e-9), "search=common")
    assert (hurried["search_complete"], hurried["total_files"]) == (False, search_module.READ_CLOCK_EVERY)
    patient = shelf.ask(shelf.pager(declaration, search_budget=60.0), "search=common")
    assert ("search_complete" in patient, patient["total_files"]) == (False, 200)
