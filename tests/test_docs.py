"""The examples of the documents run as they stand."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.support.processes import CHECKOUT, run_python

PART = """
from flask import Blueprint
bp = Blueprint("{name}", __name__)
bp.add_url_rule("/", "index", lambda: "{name}")
"""
DRIVER = """
client = app.test_client()
with app.test_request_context():
    from flask import url_for
    assert url_for("reports.index") == "/reports/"
assert "shop.reports" not in sys.modules and "shop.services" not in sys.modules
for name in ("login", "campaigns", "reports"):
    assert client.get(f"/{name}/").text == name
assert search.find() == "found"
"""


def test_the_example_of_deferred_blueprints_runs_as_it_stands(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", (CHECKOUT / "docs" / "deferred.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "shop").mkdir()
    for name in ("login", "campaigns", "reports"):
        (tmp_path / "shop" / f"{name}.py").write_text(PART.format(name=name))
    (tmp_path / "shop" / "services.py").write_text(
        "class SearchService:\n    def find(self):\n        return 'found'\n"
    )
    script = "import sys\n" + example[1].replace("WarmCache(app)", "WarmCache(app, dir='cache')") + DRIVER
    done = run_python(script, env={"PYTHONPATH": f"{CHECKOUT}{os.pathsep}{tmp_path}"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
