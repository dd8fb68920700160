"""Write a module for each of the app's blueprints; the late ones import slowly.

python -m tests.startup_app.parts FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

CRITICAL = ("login", "users", "me", "brands", "campaigns", "content", "statusz")
LATE = tuple(f"part{number:02}" for number in range(62))
CRITICAL_SECONDS, LATE_SECONDS = 0.05, 0.3
COMPUTING_EVERY = 3  # every third module computes while it is imported, the others wait, as for a disk
BALLAST = 500_000  # bytes that a module keeps in memory, as a library would

MODULE = '''"""A part of the app."""
import time
from flask import Blueprint, url_for

{work}
ballast = bytes(range(256)) * {ballast}
bp = Blueprint("{name}", __name__)

@bp.get("/")
def index():
    return "{name}"

@bp.get("/<int:number>/<name>")
def item(number, name):
    return f"{name} {{number}} {{name}} " + url_for(".index")

@bp.route("/form", methods=["POST"])
def form():
    return "posted to {name}"

@bp.before_request
def before():
    pass
'''
WAITING = "time.sleep({seconds})"
COMPUTING = """begin, total = time.thread_time(), 0
while time.thread_time() - begin < {seconds}:
    total += sum(range(1000))"""


def write(folder: Path, late_seconds: float = LATE_SECONDS) -> None:
    """Write every module; importing a late one takes ``late_seconds``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate((*CRITICAL, *LATE)):
        seconds = CRITICAL_SECONDS if name in CRITICAL else late_seconds
        work = (COMPUTING if number % COMPUTING_EVERY == 0 else WAITING).format(seconds=seconds)
        text = MODULE.format(name=name, work=work, ballast=BALLAST // 256)
        (folder / f"{name}_part.py").write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
