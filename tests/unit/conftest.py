"""What the unit ring keeps to: it loads no torch, scikit-learn or matplotlib, so that it starts at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

HEAVY = {"torch", "sklearn", "matplotlib"}


@pytest.fixture(scope="session", autouse=True)
def light(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails where a test of this ring loads what only the slow ring may; silent where both run together."""
    yield
    both = any("slow" in each.keywords for each in request.session.items)
    loaded = HEAVY & sys.modules.keys()
    assert both or not loaded, f"{', '.join(sorted(loaded))} loaded: such a test belongs in tests/slow"
