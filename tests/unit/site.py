"""An app that serves one list, for tests of HTTP answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from flask_warmcache import WarmCache, WarmList

from .world import files, make_app


class Site:
    """An app that serves one list at /files."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.app: Flask = make_app(folder, **config)
        self.items = files("a", "b", "c")
        self.builds = 0
        self.list: WarmList = WarmCache(self.app).warm_list(
            "files",
            key="path",
            unit="file",
            source=self.source,
            filters={"short": lambda item: item["size"] < 2},
            sorts={"name": lambda item: item["path"]},
            counts=("short",),
        )
        self.app.add_url_rule("/files", "files", self.list.response)
        self.client: FlaskClient = self.app.test_client()

    def source(self) -> list[dict[str, Any]]:
        self.builds += 1
        return self.items

    def build(self) -> None:
        with self.app.app_context():
            self.list.rebuild_now()
