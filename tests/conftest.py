"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from data.console import quiet
from engines.local import missing as engines_missing

quiet()
# The time of one example says nothing on a machine that does other things as well.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")
# A shell's background jobs ignore SIGINT, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Says why tests of Flink and Spark are left out."""
    if lack := engines_missing():
        return f"tests on Flink and Spark are left out: {lack} (make flink, make spark)"
    return ""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files that take minutes first: none is left for one worker while others have ended."""
    slow = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def voc_fixtures() -> Path:
    """Folder with the real VOC pictures and oracles; skips where it is not at hand."""
    folder = os.environ.get("VOC_FIXTURES")
    if not folder:
        pytest.skip("needs real VOC data: set VOC_FIXTURES to the folder that holds voc2007_300/")
    return Path(folder)
