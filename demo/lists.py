"""Declare the two warm lists of the comic library: the files that exist, and the files with their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flask import current_app

from demo import comics
from demo.markers import Markers, MarkerStore
from flask_warmcache import WarmCache

EXTENSION = "comic_library"


@dataclass(frozen=True)
class Library:
    """The comics of one app, and the files that the demo keeps about them."""

    root: Path
    data: Path
    markers: MarkerStore

    @property
    def shown_root(self) -> str:
        """The name of the folder, shown in place of its path because visitors need not know where it lies."""
        return self.root.name or "comics"

    def cover(self, cover_id: str) -> Path:
        """Return the path of a cover's file."""
        return self.data / "covers" / cover_id[:2] / f"{cover_id}.webp"


def library() -> Library:
    """Return the current app's library."""
    return cast(Library, current_app.extensions[EXTENSION])


warmcache = WarmCache()
file_list = warmcache.warm_list("file_list_cache", key="path", unit="file", ttl=300)
files = warmcache.warm_list(
    "enriched_file_cache",
    source=file_list,
    key="path",
    unit="file",
    ttl=300,
    filters={
        "marked": lambda file: file["processed"],
        "unmarked": lambda file: not file["processed"],
        "duplicates": lambda file: file["duplicate"],
    },
    sorts={
        "name": lambda file: file["name"].casefold(),
        "date": lambda file: -file["modified"],
        "size": lambda file: -file["size"],
    },
    search=("name", "relative_path", "series", "title"),
    counts=("marked", "unmarked", "duplicates"),
)


@file_list.source
def scan() -> Iterator[dict[str, Any]]:
    """Yield every comic with its markers, so that a changed marker is a changed comic."""
    here = library()
    markers = here.markers.all()
    for file in comics.walk(here.root):
        yield _described(here, file, markers.get(file.relative_path, Markers()))


def _described(here: Library, file: comics.ComicFile, markers: Markers) -> dict[str, Any]:
    return {
        "path": f"{here.shown_root}/{file.relative_path}",
        "name": file.relative_path.rpartition("/")[2],
        **file._asdict(),
        **markers._asdict(),
    }


@file_list.lookup
def find_comic(path: str) -> dict[str, Any] | None:
    """Look up one comic; ``files`` is updated too, because it is derived from this list."""
    here = library()
    relative = path.removeprefix(f"{here.shown_root}/")
    if not comics.contains(here.root, relative):
        return None
    stat = here.root.joinpath(relative).stat()
    file = comics.ComicFile(relative, stat.st_size, stat.st_mtime)
    return _described(here, file, here.markers.one(relative))


@files.enrich
def read_tags(file: dict[str, Any]) -> dict[str, Any]:
    """Open one comic for its tags and the number of pages; make a small cover once for each state of the file."""
    here = library()
    state = f"{file['relative_path']}\0{file['size']}\0{file['modified']}"
    cover_id = hashlib.sha256(state.encode()).hexdigest()[:32]
    facts = comics.read(here.root / file["relative_path"], here.cover(cover_id))
    return file | facts | {"cover": None if facts["error"] else f"/covers/{cover_id}.webp"}


@warmcache.authorize
def may(action: str, list_name: str | None) -> bool:
    """Allow everybody to start rebuilds, as everybody may mark comics, but show details of errors to nobody."""
    return action == "rebuild"


@warmcache.stats_section("markers")
def marker_stats() -> dict[str, Any]:
    """Count the markers for ``/api/cache/stats``."""
    markers = library().markers
    counts = markers.counts()
    return {
        "processed_files": counts.processed,
        "duplicate_files": counts.duplicate,
        "web_modified_files": counts.web_modified,
        "storage_location": markers.path.name,
    }
