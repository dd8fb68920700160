"""A place of its own for every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.places import Place

Make = Callable[..., Place]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Builds are quick and never stop."""
    return Place(tmp_path)


@pytest.fixture
def gated(tmp_path: Path) -> Place:
    """Builds stop in their middle while there is no gate file."""
    return Place(tmp_path).with_gate()


@pytest.fixture
def make_place(tmp_path: Path) -> Make:
    """A place whose builds are as the test says."""
    return lambda **options: Place(tmp_path, **options)
