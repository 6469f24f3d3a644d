"""`pytest --cpu-durations=N`: CPU seconds of the slowest N tests, a figure that a busy machine does not change."""

import os
from collections import defaultdict
from collections.abc import Generator

import pytest

STARTED = pytest.StashKey[float]()


def cpu_seconds() -> float:
    """User and system time of this process and of the child processes that it has waited for."""
    return sum(os.times()[:4])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-durations", type=int, metavar="N", help="show the N tests that use most CPU time")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Every report carries the CPU time since the one before; the first phase of a test includes its shared fixtures."""
    report = yield
    now = cpu_seconds()
    report.cpu_seconds = now - item.config.stash.get(STARTED, now)  # xdist sends attributes along
    item.config.stash[STARTED] = now
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    item.config.stash[STARTED] = cpu_seconds()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    count = terminalreporter.config.getoption("--cpu-durations")
    if not count:
        return
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "cpu_seconds"):
                spent[report.nodeid][report.when] += report.cpu_seconds
    total = sum(sum(phases.values()) for phases in spent.values())
    terminalreporter.section(f"{total:.0f} CPU seconds in {len(spent)} tests; the slowest {count}")
    for nodeid, phases in sorted(spent.items(), key=lambda pair: -sum(pair[1].values()))[:count]:
        setup, call = phases["setup"], phases["call"]
        terminalreporter.line(f"{sum(phases.values()):7.2f} s (setup {setup:.2f}, call {call:.2f})  {nodeid}")
