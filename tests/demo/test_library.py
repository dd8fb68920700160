from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from demo import comics, library


def test_plan_has_the_requested_number_of_files() -> None:
    for count in (1, 7, 120, 10_300):
        paths = [series.path(issue) for series in library.plan(count) for issue in series.issues]
        assert len(paths) == count
        assert len(set(paths)) == count


def test_plan_depends_on_the_seed_only() -> None:
    assert library.plan(500) == library.plan(500)
    assert library.plan(500) != library.plan(500, seed=1)


def test_full_library_has_markers_and_every_kind_of_flaw() -> None:
    planned = library.plan(10_300)
    processed, duplicates = library.first_markers(planned)
    assert (len(processed), len(duplicates)) == (8_234, 12)
    flaws = Counter(issue.flaw for series in planned for issue in series.issues if issue.flaw)
    assert (set(flaws), sum(flaws.values())) == (set(library.FLAWS), 12)


def test_written_files_match_the_plan(small_library: Path, planned: list[library.Series]) -> None:
    paths = {series.path(issue) for series in planned for issue in series.issues}
    assert {file.relative_path for file in comics.walk(small_library / "library")} == paths


def test_comics_are_archives_with_their_pages(small_library: Path, planned: list[library.Series]) -> None:
    series = planned[0]
    issue = next(issue for issue in series.issues if not issue.flaw and issue.tagged)
    with zipfile.ZipFile(small_library / "library" / series.path(issue)) as archive:
        assert archive.testzip() is None
        assert len([name for name in archive.namelist() if name.startswith("page-")]) == issue.pages


def test_broken_comics_do_not_affect_others(small_library: Path, tmp_path: Path) -> None:
    root = small_library / "library"
    described = [
        comics.read(root / file.relative_path, tmp_path / f"{number}.webp")
        for number, file in enumerate(comics.walk(root))
    ]
    broken = Counter(comic["error"] for comic in described if comic["error"])
    assert sum(broken.values()) == 12
    assert set(broken) == {"empty file", "not a zip file", "no pages inside", "cover is damaged"}
    assert len(list(tmp_path.glob("*.webp"))) == len(described) - 12


def test_interrupted_library_is_completed(tmp_path: Path) -> None:
    planned = library.plan(20)
    library.write(tmp_path, planned[0])
    first = tmp_path / planned[0].path(planned[0].issues[0])
    before = first.stat()
    library.make(tmp_path, 20, processes=1)
    assert len(list(comics.walk(tmp_path))) == 20
    assert first.stat().st_ino == before.st_ino, "a finished file was written again"


def test_finished_library_is_not_changed(tmp_path: Path) -> None:
    library.make(tmp_path, 6, processes=1)
    deleted = tmp_path / next(comics.walk(tmp_path)).relative_path
    deleted.unlink()
    library.make(tmp_path, 6)
    assert not deleted.exists(), "the owner's deletion was undone"
    with pytest.raises(FileExistsError, match="another library"):
        library.make(tmp_path, 7)
