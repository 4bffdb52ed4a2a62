"""Fixtures for all tests: the rigs of hil/. Under CI=true a test that skips is a failure: CI has everything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

# How long an example takes says how busy the machine is.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

pytest_plugins = ["hil.fixtures", "hil.alone"]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where CI skipped a test."""
    reporter: TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    if os.environ.get("CI") == "true" and skipped:
        assert reporter is not None
        reporter.write_line(f"\n{len(skipped)} tests were skipped, and CI allows none")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
