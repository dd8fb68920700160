"""The app with 62 late blueprints, as the tests of servers start it."""

from __future__ import annotations

from tests.startup_app.app import app as app
from tests.support.reporting import note

note("loaded")
