"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from data.console import quiet
from engines.local import missing as engines_missing

pytest_plugins = ["tests.sample_run"]
quiet()
# Timing single examples is meaningless on a busy machine.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")
# Background jobs of a shell ignore SIGINT, which the processes that tests interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Says why tests on Flink and Spark are left out."""
    if lack := engines_missing():
        return f"tests on Flink and Spark are left out: {lack} (make flink, make spark)"
    return ""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs slow files first, so that no worker is left with one while the others are idle."""
    slow = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def voc_fixtures() -> Path:
    """Folder with the real VOC pictures and oracles; skips the test without it."""
    folder = os.environ.get("VOC_FIXTURES")
    if not folder:
        pytest.skip("needs real VOC data: set VOC_FIXTURES to the folder with voc2007_300/")
    return Path(folder)
