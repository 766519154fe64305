"""What every ring shares: hypothesis without deadlines (the machine may be busy), and the measured data."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("trimtab", deadline=None, max_examples=50)
settings.load_profile("trimtab")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded answers beside the checkout; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no recorded answers at {folder}")
    return folder
