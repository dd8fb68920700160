"""Insert the tables and the picture of both benchmarks into the documentation.

    python -m tests.benchmarks.figures heart.json rebuilds.json

The two files hold the output of ``tests/benchmarks/run --json`` and ``tests/benchmarks/run rebuilds --json``.
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

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "figures.md"
BEGIN, END = "<!-- figures: python -m tests.benchmarks.figures -->\n", "<!-- end of figures -->\n"


def tables(read: dict[str, Any], rebuilt: dict[str, Any]) -> str:
    """Return the tables that both benchmarks print."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        heart.show(read, read["page bytes"])
        rebuilds.show(rebuilt)
    return printed.getvalue().strip() + "\n"


def main() -> None:
    read, rebuilt = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{tables(read, rebuilt)}\n{END}{after}")
    (DOCS / "latency.svg").write_text(picture(rebuilt["latency"]))


if __name__ == "__main__":
    main()
