"""Make a library of comics for the demo: ``python -m demo.library FOLDER --count 10300``.

The comics are invented, but the files are real: zip archives with pages and a ComicInfo.xml, in a folder for
each publisher and series. A few are broken or duplicates, as in every real library. The same count and seed give
the same files. The next run resumes an interrupted one.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from xml.etree import ElementTree

from PIL import Image
from tqdm import tqdm

from demo import artwork, titles
from demo.markers import MarkerStore

COUNT = 10_300
SEED = 2026
DONE = ".library.json"  # written last; says which library the folder holds
FLAWS = ("empty", "cut off", "not a zip", "no pages", "damaged cover", "damaged directory")
_SPECIAL = 12  # the number of broken comics, and of duplicates; a small library has fewer
_TAGGED = 8_234 / 10_300  # the share that starts as processed
_BATCH = 50  # comics in one task; every task draws its series again


@dataclass(frozen=True)
class Issue:
    """One comic file."""

    number: int
    year: int
    title: str
    pages: int  # including the cover
    suffix: str = ".cbz"
    tagged: bool = True  # whether it has a ComicInfo.xml
    note: str = ""  # follows the year in the file's name
    flaw: str = ""  # one of FLAWS, or empty


@dataclass(frozen=True)
class Series:
    """A series, or some of its issues."""

    name: str
    publisher: str
    writer: str
    year: int
    issues: tuple[Issue, ...]

    def path(self, issue: Issue) -> str:
        """Return the path of an issue's file, relative to the library."""
        name = f"{self.name} {issue.number:03} ({issue.year}){issue.note}{issue.suffix}"
        return f"{self.publisher}/{self.name} ({self.year})/{name}"


def plan(count: int, seed: int = SEED) -> list[Series]:
    """Return the comics that a library of ``count`` files holds."""
    rng = Random(seed)
    names = titles.series_names(rng)
    planned: list[Series] = []
    left = count
    while left:
        size = min(left, rng.randint(8, 130))
        year = rng.randint(1968, 2019)
        issues = tuple(_issue(number, year, rng) for number in range(1, size + 1))
        planned.append(
            Series(next(names), rng.choice(titles.PUBLISHERS), rng.choice(titles.WRITERS), year, issues)
        )
        left -= size
    return _spoil(planned, rng)


def first_markers(planned: list[Series], seed: int = SEED) -> tuple[list[str], list[str]]:
    """Return the files that start as processed, and those that start as duplicates."""
    paths = [series.path(issue) for series in planned for issue in series.issues]
    doubles = [series.path(issue) for series in planned for issue in series.issues if issue.note]
    return sorted(Random(seed).sample(paths, round(len(paths) * _TAGGED))), doubles


def make(folder: Path, count: int = COUNT, seed: int = SEED, processes: int | None = None) -> list[Series]:
    """Write the missing files of the library, and return its plan."""
    done = {"count": count, "seed": seed}
    planned = plan(count, seed)
    found = _read_done(folder)
    if found == done:
        return planned
    if found is not None:
        raise FileExistsError(f"{folder} holds another library, {found}. Choose another folder, or delete it.")
    folder.mkdir(parents=True, exist_ok=True)
    # The parent may have threads. A forked child could then hang, so children are spawned.
    spawn = multiprocessing.get_context("spawn")
    workers = processes or min(os.cpu_count() or 1, 8)
    with (
        ProcessPoolExecutor(workers, mp_context=spawn) as pool,
        tqdm(total=count, unit=" comics", disable=None) as bar,
    ):
        for task in as_completed([pool.submit(write, folder, part, seed) for part in _batches(planned)]):
            bar.update(task.result())
    _write_whole(folder / DONE, json.dumps(done).encode())
    return planned


def write(folder: Path, series: Series, seed: int = SEED) -> int:
    """Write the missing files of one series, and return the number of its issues."""
    missing = [issue for issue in series.issues if not (folder / series.path(issue)).exists()]
    if missing:
        (folder / series.path(missing[0])).parent.mkdir(parents=True, exist_ok=True)
        rng = Random(f"{seed} {series.name}")
        image = rng.choice((*["JPEG"] * 8, "WEBP", "PNG"))  # mostly JPEG, which is the fastest to write
        bases = artwork.bases(series.name, rng)
        inner = [_encode(artwork.page(rng).reduce(2), "PNG") for _ in range(3)]
        inner += [_encode(artwork.page(rng).reduce(2), "WEBP") for _ in range(3)]
        for issue in missing:
            rng = Random(f"{seed} {series.name} {issue.number}")
            front = artwork.cover(rng.choice(bases), issue.number, issue.year, rng)
            pages = [_encode(front, image), *rng.sample(inner, issue.pages - 1)]
            path = folder / series.path(issue)
            _write_whole(path, _archive(series, issue, pages))
            collected = rng.randint(1_546_300_800, 1_767_225_600)  # from 2019 to 2025, not all in this minute
            os.utime(path, (collected, collected))
    return len(series.issues)


def _issue(number: int, year: int, rng: Random) -> Issue:
    suffix = ".zip" if rng.random() < 0.005 else ".epub" if rng.random() < 0.003 else ".cbz"
    return Issue(number, year + number // 12, titles.story(rng), rng.randint(3, 6), suffix, rng.random() < 0.92)


def _spoil(planned: list[Series], rng: Random) -> list[Series]:
    """Break some issues, and turn others into duplicates of the issue before."""
    issues = [[*series.issues] for series in planned]
    # Take only every second issue, so that an issue and the one before are never both duplicates.
    places = [(row, at) for row, series in enumerate(issues) for at in range(1, len(series), 2)]
    few = min(_SPECIAL, len(places) // 4)
    chosen = rng.sample(places, 2 * few)
    for turn, (row, at) in enumerate(chosen[:few]):
        issues[row][at] = replace(issues[row][at], flaw=FLAWS[turn % len(FLAWS)])
    for row, at in chosen[few:]:
        # The duplicate repeats the number before; its own number is then missing, as in a real collection.
        issues[row][at] = replace(issues[row][at - 1], note=" (second scan)", flaw="")
    return [replace(series, issues=tuple(row)) for series, row in zip(planned, issues, strict=True)]


def _batches(planned: list[Series]) -> Iterator[Series]:
    for series in planned:
        for start in range(0, len(series.issues), _BATCH):
            yield replace(series, issues=series.issues[start : start + _BATCH])


def _archive(series: Series, issue: Issue, pages: list[bytes]) -> bytes:
    if issue.flaw == "empty":
        return b""
    if issue.flaw == "not a zip":
        return b"This was a comic until its disk was full.\n" * 40
    if issue.flaw == "damaged cover":
        pages = [pages[0][:200] + bytes(2000), *pages[1:]]
    if issue.flaw == "no pages":
        pages = []
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, because pages are compressed already
        if issue.suffix == ".epub":
            archive.writestr("mimetype", "application/epub+zip")
        for number, page in enumerate(pages):
            archive.writestr(f"page-{number}.{_suffix(page)}", page)
        if issue.tagged:
            archive.writestr("ComicInfo.xml", _comic_info(series, issue))
    whole = buffer.getvalue()
    if issue.flaw == "cut off":
        return whole[: len(whole) // 2]
    if issue.flaw == "damaged directory":
        return whole.replace(b"PK\x01\x02", b"PK\x00\x00")
    return whole


def _comic_info(series: Series, issue: Issue) -> bytes:
    info = ElementTree.Element("ComicInfo")
    for tag, value in (
        ("Title", issue.title),
        ("Series", series.name),
        ("Number", issue.number),
        ("Year", issue.year),
        ("Writer", series.writer),
        ("Publisher", series.publisher),
        ("PageCount", issue.pages),
    ):
        ElementTree.SubElement(info, tag).text = str(value)
    content: bytes = ElementTree.tostring(info, encoding="utf-8", xml_declaration=True)
    return content


def _encode(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "PNG":
        picture.quantize(64, Image.Quantize.FASTOCTREE).save(buffer, kind)
    else:
        picture.save(buffer, kind, quality=60, method=0)
    return buffer.getvalue()


def _suffix(page: bytes) -> str:
    return "png" if page.startswith(b"\x89PNG") else "webp" if page.startswith(b"RIFF") else "jpg"


def _write_whole(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    os.replace(draft, path)


def _read_done(folder: Path) -> object:
    try:
        return json.loads((folder / DONE).read_text())
    except FileNotFoundError:
        return None


def main() -> int:
    """Make the library that the command line describes."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.library", description="Make a library of invented comics."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=COUNT, help="how many files (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=SEED, help="another seed makes other comics (default: %(default)s)"
    )
    parser.add_argument("--markers", type=Path, help="also mark some as processed, in this new SQLite file")
    asked = parser.parse_args()
    if asked.count < 1:
        parser.error("--count must be at least 1")
    try:
        planned = make(asked.folder, asked.count, asked.seed)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    if asked.markers and not asked.markers.exists():
        processed, duplicates = first_markers(planned, asked.seed)
        store = MarkerStore(asked.markers)
        store.set_markers(processed, processed=True, by_web=False)
        store.set_markers(duplicates, duplicate=True, by_web=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
