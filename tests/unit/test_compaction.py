"""The data file: it grows by what changed, and is written anew once most of it is dead."""

from __future__ import annotations

import pytest

from flask_warmcache import ViewError
from flask_warmcache.declare import Item
from flask_warmcache.rebuild import job as job_module

from .world import Shelf


def big(*sizes: int) -> list[Item]:
    return [{"path": str(number), "text": "x" * size} for number, size in enumerate(sizes)]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are compacted, too, and small lists are mended."""
    monkeypatch.setattr("flask_warmcache.rebuild.compaction.COMPACT_FROM", 0)
    monkeypatch.setattr(job_module, "MEND_SHARE", 1)


@pytest.mark.usefixtures("soon")
def test_a_file_that_is_mostly_dead_is_written_anew(shelf: Shelf) -> None:
    shelf.rebuild(big(1000, 1000, 10))
    first = shelf.data.name
    shelf.rebuild(big(1000, 1001, 10))  # a third is dead
    assert shelf.data.name == first
    shelf.rebuild(big(1002, 1001, 10))
    shelf.rebuild(big(1003, 1001, 10))  # now more than half of it is
    assert shelf.data.name == first
    outcome = shelf.rebuild(big(1003, 1001, 10))
    assert shelf.data.name != first
    assert outcome.reused == 3
    assert shelf.items() == big(1003, 1001, 10)
    assert shelf.data.stat().st_size < 2300


@pytest.mark.usefixtures("soon")
def test_a_file_that_is_copied_keeps_fingerprints(shelf: Shelf) -> None:
    for size in (1000, 1001, 1002, 1003, 1003, 1003):
        outcome = shelf.rebuild(big(size, 5))
    assert (outcome.reused, outcome.enriched) == (2, 0)


def test_a_small_file_is_left_as_it_is(shelf: Shelf) -> None:
    shelf.rebuild(big(1000, 1))
    first = shelf.data.name
    for size in range(1001, 1010):
        shelf.rebuild(big(size, 1))
    assert shelf.data.name == first


@pytest.mark.usefixtures("soon")
def test_rebuilds_that_fail_do_not_fill_the_disk(shelf: Shelf) -> None:
    shelf.rebuild(big(1000))
    live = shelf.data.stat().st_size

    def fails(item: Item) -> object:
        return {}

    for size in range(2000, 2010):
        with pytest.raises(ViewError):
            shelf.rebuild(big(size, 2), sorts={"text": fails})
        # The published file, and what the failed rebuild finished.
        assert sum(path.stat().st_size for path in shelf.folder.glob("*.data")) < 2 * live + 5000
    assert shelf.items() == big(1000)
    shelf.rebuild(big(1000, 1000))
    assert shelf.items() == big(1000, 1000)
    assert len(list(shelf.folder.glob("*.data"))) == 1


@pytest.mark.usefixtures("soon")
def test_what_a_failed_rebuild_finished_is_not_enriched_again(shelf: Shelf) -> None:
    shelf.rebuild(big(3000))
    with pytest.raises(ViewError):
        shelf.rebuild(big(4000, 4001), sorts={"text": lambda item: {}})
    assert shelf.items() == big(3000)
    outcome = shelf.rebuild(big(4000, 4001))
    assert (outcome.reused, outcome.enriched, shelf.items()) == (2, 0, big(4000, 4001))
