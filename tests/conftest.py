"""The data and models beside the project, for tests marked `data`."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gradgeo.detector.fit import progress
from helpers import ROOT, TESTS

pytest_plugins = ["helpers.browsing", "helpers.cost", "helpers.cpu_time"]

# Processes that tests start find the laboratory and the helpers as pytest does, whatever their working folder.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), str(TESTS), os.environ.get("PYTHONPATH")]))

progress.SILENT = math.inf  # on a busy machine anything may take long enough for a line about how far it is

torch.set_num_threads(1)  # the networks are small, and a busy machine makes threads wait for each other


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def gradgeo_data() -> Path:
    """The folder that holds data/ and models/. Set and missing is a failure: those tests must not vanish silently."""
    if not os.environ.get("GRADGEO_DATA"):
        pytest.skip("GRADGEO_DATA names no folder with the data and models of this project")
    folder = Path(os.environ["GRADGEO_DATA"]).resolve()
    if not (folder / "models" / "nets.py").is_file():
        pytest.fail(f"GRADGEO_DATA is {folder}, which holds no models/nets.py")
    return folder


@pytest.fixture(scope="session")
def nets(gradgeo_data: Path) -> Iterator[object]:
    """The module with the trained classifiers: `nets.load(name)`."""
    sys.path.insert(0, str(gradgeo_data / "models"))
    import nets

    yield nets
    sys.path.remove(str(gradgeo_data / "models"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `data` says so in its report, whose keywords are names of folders too."""
    for item in items:
        if item.get_closest_marker("data"):
            item.user_properties.append(("data", True))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With GRADGEO_DATA set, a skipped `data` test is a failure of the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("GRADGEO_DATA") and reporter is not None:
        reports = reporter.stats.get("skipped", [])
        skipped = [r.nodeid for r in reports if "data" in dict(getattr(r, "user_properties", ()))]
        if skipped:
            print(f"\nGRADGEO_DATA is set, yet these were skipped: {', '.join(skipped)}")
            session.exitstatus = 1
