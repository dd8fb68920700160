"""The compared apps: one with a list of many items, and one with a view of constant bytes and no extension."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response

ITEMS = int(os.environ.get("BENCHMARK_ITEMS", "10300"))
BARE_BYTES = int(os.environ.get("BENCHMARK_BARE_BYTES", "0"))

app = Flask(__name__)
app.config.from_prefixed_env()

if BARE_BYTES:
    DATA = b"x" * BARE_BYTES
    # The headers of a list's answer. Each header costs the server time.
    HEADERS = {
        "Cache-Control": "private, no-cache",
        "ETag": 'W/"18ea46b0413d1ab4-fresh-0-ff000393"',
        "X-Warmcache": "files; gen=18ea46b0413d1ab4; state=fresh",
        "Cache-Status": "warmcache; hit; ttl=86390; detail=fresh",
        "Age": "10",
    }
    SENT = HEADERS if "BENCHMARK_BARE_HEADERS" in os.environ else {}

    @app.get("/api/cache/stats/files")
    @app.get("/api/files")
    def bare() -> Response:
        return Response(DATA, content_type="application/json", headers=SENT)

else:
    from flask_warmcache import WarmCache

    app.config["WARMCACHE_DIR"] = os.environ["BENCHMARK_DIR"]
    warmcache = WarmCache(app, default_ttl=86400)
    files = warmcache.warm_list(
        "files",
        key="path",
        unit="file",
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
        search=("name", "relative_path"),
        counts=("unmarked",),
    )

    @files.source
    def scan() -> Iterator[dict[str, Any]]:
        for number in range(ITEMS):
            series = number * 7919 % 997
            yield {
                "path": f"/library/Series {series:03}/Issue {number:07}.cbz",
                "size": 10_000_000 + number * 104_729 % 60_000_000,
                "modified": 1_600_000_000 + number * 15_485_863 % 150_000_000,
                "processed": number % 5 != 0,
                "duplicate": number % 97 == 0,
            }

    @files.enrich
    def read_tags(file: dict[str, Any]) -> dict[str, Any]:
        relative = file["path"].removeprefix("/library/")
        return file | {"name": relative.rpartition("/")[2], "relative_path": relative, "pages": 24}

    @app.get("/api/files")
    def list_files() -> Response:
        return files.response(per_page=50)
