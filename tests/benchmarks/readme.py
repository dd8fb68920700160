"""Puts the figures of both benchmarks into the README, and the picture beside this file.

    python -m tests.benchmarks.readme heart.json rebuilds.json

The two files are what ``tests/benchmarks/run --json`` and ``tests/benchmarks/run rebuilds --json`` print.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from . import heart, rebuilds
from .plot import picture

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- figures: python -m tests.benchmarks.readme -->\n", "<!-- end of figures -->\n"


def tables(read: dict[str, Any], rebuilt: dict[str, Any]) -> str:
    """What both benchmarks print."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        heart.show(read, read["page bytes"])
        rebuilds.show(rebuilt)
    return printed.getvalue().strip() + "\n"


def main() -> None:
    read, rebuilt = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, behind = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{tables(read, rebuilt)}\n{END}{behind}")
    (HERE / "latency.svg").write_text(picture(rebuilt["latency"]))


if __name__ == "__main__":
    main()
