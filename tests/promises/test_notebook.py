"""The notebook is the tutorial: made from it by `make notebooks`, and no older than it."""

import importlib.util
import json
import re

import pytest

from helpers import ROOT

spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
maker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(maker)


def test_the_notebook_is_that_of_the_tutorial() -> None:
    for library in ("jupytext", "nbformat"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    assert maker.NOTEBOOK.read_text() == maker.written(maker.PAGE.read_text()), "run `make notebooks`"


def test_the_notebook_has_all_code_with_what_it_prints() -> None:
    page, cells = maker.PAGE.read_text(), json.loads(maker.NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == page.count("```python") + page.count("```sh") + 1  # it installs gradgeo first
    assert "".join(code[0]["source"]) == maker.INSTALL
    assert sum(bool(cell["outputs"]) for cell in code) == page.count("```text")
    words = "".join("".join(cell["source"]) for cell in cells)
    assert not re.findall(r"\]\((?!https://)[^)]*\)", words), "links that a notebook elsewhere cannot follow"
