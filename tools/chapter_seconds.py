"""A pytest plugin: after the notebooks have run, the seconds of each chapter and of all."""

from __future__ import annotations

from collections import defaultdict

import pytest

seconds: defaultdict[str, float] = defaultdict(float)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a cell's time (set-up, which starts the kernel, included) to its notebook."""
    seconds[report.nodeid.split("::")[0]] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line a notebook, and the total."""
    terminalreporter.section("seconds of each chapter")
    for notebook in sorted(seconds):
        terminalreporter.write_line(f"{seconds[notebook]:8.1f} s  {notebook}")
    terminalreporter.write_line(f"{sum(seconds.values()):8.1f} s  in {len(seconds)} notebooks")
