"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

from data.console import quiet

quiet()


@pytest.fixture(scope="session")
def voc_fixtures() -> Path:
    """Folder with the real VOC pictures and oracles; skips where it is not at hand."""
    folder = os.environ.get("VOC_FIXTURES")
    if not folder:
        pytest.skip("needs real VOC data: set VOC_FIXTURES to the folder that holds voc2007_300/")
    return Path(folder)
