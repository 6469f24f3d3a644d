"""Markers by cost. `pytest --quick` leaves out what is costly but for one witness of each kind, and says so at the end."""

from collections import Counter
from typing import Any

import pytest

COSTLY = {
    "process": "starts other processes: servers, workers of Ray, the command line, a save that is killed",
    "export": "traces a detector, and runs or compiles the file",
    "site": "builds the documentation",
    "zoo": "builds classifiers of torchvision, timm or transformers",
    "simulation": "runs an experiment: fits, attacks or draws, repeated until a rate is known, or a benchmark in small",
    "browser": "opens a page in Chromium, and is skipped where there is none",
    "page": "draws a page or a picture, or counts a long file for one",
    "example": "runs the examples in the docstrings of a module",
    "journey": "uses several commands, or one again, on a detector or verdicts that it makes first",
    "data": "needs GRADGEO_DATA, the folder with the trained classifiers and their data",
    "release": "checks the committed figures of results/, which are made anew for a release",
}
SAMPLED = 11
"""Of the tests of one function marked `grid`, --quick runs one in so many: a prime, so that
each value of each option comes up."""

OTHERS = {
    "grid": f"one test for each of many combinations of options: --quick and --sample run one in {SAMPLED}",
    "rounding": "its outcome rests on floating-point rounding: .ci/run repeats it with the kernels of other processors",
    "witness": "the one test of its costly kind that --quick runs",
}
LEFT_OUT = pytest.StashKey[Counter[str]]()
WITNESSES_MISSING = "these costly markers have no witness, so that --quick would not try them at all: {}"


def kinds(item: pytest.Item) -> list[str]:
    """The costly markers of a test."""
    return [name for name in COSTLY if item.get_closest_marker(name)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out costly tests, but for a witness of each kind")
    parser.addoption("--sample", action="store_true", help="of grids of options run a sample, as --quick does")


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in {**COSTLY, **OTHERS}.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick") or config.getoption("--sample"):
        sampled = beyond_sample(items)
        drop(config, items, sampled)
        left_out = Counter({"grid": len(sampled)})
        if config.getoption("--quick"):
            left_out += costly_beyond_witnesses(config, items)
        config.stash[LEFT_OUT] = left_out
        if hasattr(config, "workeroutput"):  # a worker of xdist sends it to the process that reports
            config.workeroutput["left_out"] = dict(left_out)
    # Files with costly tests first: whole files go to the processes of a run, and a long one at the end keeps the others idle.
    costly = {item.path for item in items if kinds(item)}
    items.sort(key=lambda item: item.path not in costly)


def drop(config: pytest.Config, items: list[pytest.Item], dropped: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in set(dropped)]


def costly_beyond_witnesses(config: pytest.Config, items: list[pytest.Item]) -> Counter[str]:
    """Drop costly tests but for the witnesses; returns how many of each kind."""
    whole = config.args == config.getini("testpaths")
    witnessed = {kind for item in items if item.get_closest_marker("witness") for kind in kinds(item)}
    if whole and (missing := [kind for kind in COSTLY if kind not in witnessed]):
        raise pytest.UsageError(WITNESSES_MISSING.format(", ".join(missing)))
    dropped = [item for item in items if kinds(item) and not item.get_closest_marker("witness")]
    drop(config, items, dropped)
    return Counter(kind for item in dropped for kind in kinds(item))


def beyond_sample(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests of grids that are not in the sample."""
    numbers: Counter[str] = Counter()
    beyond = []
    for item in items:
        if item.get_closest_marker("grid"):
            function = item.nodeid.partition("[")[0]
            if numbers[function] % SAMPLED:
                beyond.append(item)
            numbers[function] += 1
    return beyond


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker collects the same tests, so the last one to finish says what each would."""
    if "left_out" in (sent := getattr(node, "workeroutput", {})):
        node.config.stash[LEFT_OUT] = Counter(sent["left_out"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = terminalreporter.config.stash.get(LEFT_OUT, None)
    if not left_out:
        return
    terminalreporter.section("left out; `make test-all` runs everything")
    for kind, count in left_out.items():
        terminalreporter.line(f"{count:4} by `pytest -m {kind}`: {(COSTLY | OTHERS)[kind]}")
