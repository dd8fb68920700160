"""An app whose list takes four seconds of pure Python to build: 400,000 steps in 400 items."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response

from flask_warmcache import WarmCache
from flask_warmcache.host import threads

ITEMS, STEPS = 400, 1000
ROUND = Path(os.environ["BENCHMARK_DIR"]) / "round"  # every item changes with the number in this file

app = Flask(__name__)
app.config.from_prefixed_env()
app.config["WARMCACHE_DIR"] = os.environ["BENCHMARK_DIR"] + "/cache"
app.config["WARMCACHE_RUNNER"] = os.environ.get("BENCHMARK_RUNNER", "thread")
warmcache = WarmCache(app, default_ttl=86400)
work = warmcache.warm_list("work", key="number", unit="item", sorts={"total": lambda item: item["total"]})

if "BENCHMARK_IMPOLITE" in os.environ:
    threads.SWITCH_INTERVAL = threads.POLITE_INTERVAL = 3600.0


@work.source
def numbers() -> Iterator[dict[str, Any]]:
    number_of_round = ROUND.read_text()
    for number in range(ITEMS):
        yield {"number": number, "round": number_of_round}


@work.enrich
def compute(item: dict[str, Any]) -> dict[str, Any]:
    total = 0
    for step in range(STEPS):
        words = sorted(
            f"{item['number']} {step} {total % 97} is one step of very many, each {total % 89}".split() * 8
        )
        row = {
            "id": step,
            "name": " ".join(words),
            "even": step % 2 == 0,
            "words": [word.upper() for word in words],
        }
        total += len(row["name"]) + len(row["words"])  # type: ignore[arg-type]
    return item | {"total": total, "text": "x" * 200}


@app.get("/api/work")
def page() -> Response:
    return work.response(per_page=50)


@app.get("/again")
def again() -> dict[str, bool]:
    ROUND.write_text(str(int(ROUND.read_text()) + 1))
    work.invalidate()
    return {"ok": True}
