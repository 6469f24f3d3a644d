"""The data and models beside the project, for tests marked `data`."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import ROOT, TESTS

pytest_plugins = ["helpers.cost", "helpers.cpu_time"]

# Processes that tests start find the laboratory and the helpers as pytest does, whatever their working folder.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), str(TESTS), os.environ.get("PYTHONPATH")]))

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


CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("no Chromium: set CHROMIUM to its path, or install it, for instance by apt-get install chromium")
    with api.sync_playwright() as playwright:
        # as root, in a container, Chromium has no sandbox of its own
        unboxed = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        launched = playwright.chromium.launch(executable_path=found, args=unboxed)
        yield launched
        launched.close()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With GRADGEO_DATA set, a skipped `data` test is a failure of the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("GRADGEO_DATA") and reporter is not None:
        skipped = [r.nodeid for r in reporter.stats.get("skipped", []) if "data" in getattr(r, "keywords", ())]
        if skipped:
            print(f"\nGRADGEO_DATA is set, yet these were skipped: {', '.join(skipped)}")
            session.exitstatus = 1
