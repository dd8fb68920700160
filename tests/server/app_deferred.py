"""The app with 62 late blueprints, as the tests of servers start it."""

from __future__ import annotations

import os
import time

from tests.startup_app.app import app as app

with open(os.environ["TEST_CALLS"], "a") as _calls:
    _calls.write(f"loaded {os.getpid()} {time.monotonic_ns()}\n")
