"""What the project promises about itself: imports run one way and cost little; the examples in docstrings run."""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import gradgeo

PACKAGE = Path(gradgeo.__file__).parent

ROOMS = [
    ["errors", "notebook", "files", "convolution", "linear"],
    ["copies", "model_state"],
    ["passes"],
    ["logits"],
    ["fast_copy"],
    ["classifier"],
    ["geometry", "penultimate", "tapping"],
    ["conformal", "one_class", "verdicts", "batches", "fingerprint", "watch"],
    ["observation"],
    ["evidence", "joint"],
    ["measurement", "detector_file", "survey"],
    ["explaining", "fitting"],
    ["detector"],
    ["panel"],
    ["attacks", "metrics", "ood", "guarded", "export"],
    ["path"],
    ["models", "data", "plots", "pages"],
    ["scoring", "demo"],
    ["serve"],
    ["report"],
    ["benchmark"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradgeo"):
            deeper = node.module.split(".")[1:2]
            names = deeper or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gradgeo.")]
        for name in names:
            own = room(path)
            below = name == own or name.startswith("__") or FLOOR[name] < FLOOR[own]
            assert below, f"{own} imports {name}, which is not below it"


OPTIONAL = [
    "typer",
    "PIL",
    "pyarrow",
    "matplotlib",
    "torchvision",
    "timm",
    "aeon",
    "datasets",
    "foolbox",
    "jinja2",
    "pytorch_ood",
    "ray",
    "fastapi",
    "uvicorn",
    "prometheus_client",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "sympy",
]


def test_importing_us_imports_no_optional_library() -> None:
    code = f"import sys, gradgeo; print([m for m in {OPTIONAL} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("ours", ["benchmarks", "gradgeo.report", "gradgeo.scoring", "gradgeo.data"])
def test_what_needs_optional_libraries_can_be_imported_without(ours: str) -> None:
    missing = [name for name in OPTIONAL if name != "sympy"]  # which torch.fx needs
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); import {ours}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "gradgeo.")])
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    torch.manual_seed(0)
    assert doctest.testmod(module).failed == 0


def test_every_module_says_what_it_is_for() -> None:
    for path in [*modules(), PACKAGE / "__init__.py"]:
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
        assert len(first) > 20, path


def test_the_picture_of_the_rooms_is_right() -> None:
    text = (PACKAGE.parent.parent / "CONTRIBUTING.md").read_text().split("```text\n")[1].split("```")[0]
    drawn = {}
    for line in text.splitlines():
        names, lines = re.fullmatch(r"(.+?) +(\d+)  .*", line).groups()
        drawn[tuple(names.split(", "))] = int(lines)
    assert sorted(name for names in drawn for name in names) == sorted(name for name in FLOOR if name != "__main__")
    sizes = Counter(room(path) for path in modules() for _ in path.read_text().splitlines())
    for names, lines in drawn.items():
        assert abs(sum(sizes[name] for name in names) - lines) <= max(100, 0.25 * lines), names
