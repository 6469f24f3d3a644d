"""What the project promises about itself: imports run one way and cost little; the examples in docstrings run."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

import gradgeo
from helpers import ROOT

PACKAGE = Path(gradgeo.__file__).parent

LAYERS = (
    ("cli",),
    ("bench", "demo"),
    ("report", "integrations"),
    ("scoring", "serve", "export", "attacks", "certificate"),
    ("detector", "data", "metrics", "watch"),
    ("geometry",),
    ("classifier",),
    ("_files",),
    ("errors", "_typing", "_version"),
)
"""From top to ground: a folder or module of the package may import what stands in lower rows, of any depth."""

GROUND = {name for layer in LAYERS[-2:] for name in layer}
BESIDE = {"data": {"classifier"}, "metrics": {"classifier"}, "watch": {"classifier"}}
"""What stands at the side of the detector may import less than its row allows: the ground, and these."""

MOST_LAYERS, MOST_BOXES, MOST_LINES = 9, 20, 400


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def box(path: Path) -> str:
    """The folder or module of the package's root that a file belongs to; `python -m gradgeo` is the command line's."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if name == "__main__" else name


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def boxes() -> frozenset[str]:
    return frozenset(box(path) for path in modules())


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and box of every import of the package, also within functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            parts = (node.module or "").split(".")
            if parts[0] == "gradgeo":
                yield from ((node.lineno, name) for name in parts[1:2] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "gradgeo":
                    yield node.lineno, parts[1] if len(parts) > 1 else ""


def forbidden(own: str, name: str) -> str | None:
    """Why the box `own` may not import `name`, or None."""
    if own == name:
        return None
    if name not in boxes():  # a public name, which the facade finds in any box
        return (
            None if own in LAYERS[0] else f"{own} imports {name or 'the package'}: import it from where it is defined"
        )
    row = {each: i for i, layer in enumerate(LAYERS) for each in layer}
    allowed = {*GROUND, *BESIDE[own]} if own in BESIDE else {each for each in row if row[each] > row[own]}
    return None if name in allowed else f"{own} imports {name}, which is not below it"


def test_imports_run_one_way() -> None:
    wrong = []
    for path in modules():
        for line, name in imported(parsed(path)):
            if (reason := forbidden(box(path), name)) is not None:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {reason}")
    assert wrong == []


def test_an_upward_import_is_noticed() -> None:
    source = "def f():\n    from gradgeo.cli.console import say\n    from gradgeo import Detector, geometry\n"
    assert list(imported(ast.parse(source))) == [(2, "cli"), (3, "Detector"), (3, "geometry")]
    assert forbidden("scoring", "cli") == "scoring imports cli, which is not below it"
    assert forbidden("scoring", "serve") == "scoring imports serve, which is not below it"
    assert forbidden("data", "geometry") == "data imports geometry, which is not below it"
    assert forbidden("scoring", "Detector") == "scoring imports Detector: import it from where it is defined"
    assert forbidden("scoring", "geometry") is forbidden("data", "classifier") is None
    assert forbidden("cli", "cli") is forbidden("cli", "Detector") is None


def test_the_house_is_small_enough_to_remember() -> None:
    """Every box has its place, and neither boxes nor layers nor the lines of a module are many."""
    assert boxes() == {name for layer in LAYERS for name in layer}
    assert len(boxes()) <= MOST_BOXES
    uses = {name: set[str]() for name in boxes()}
    for path in modules():
        uses[box(path)] |= {name for _, name in imported(parsed(path))} & boxes() - {box(path)}
    assert 1 < depth(uses) <= MOST_LAYERS
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in modules()}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def depth(uses: dict[str, set[str]]) -> int:
    """The length of the longest chain of imports between boxes; a circle is an error."""

    def below(name: str, above: tuple[str, ...]) -> int:
        assert name not in above, f"imports run in a circle: {' -> '.join((*above, name))}"
        return 1 + max((below(each, (*above, name)) for each in uses[name]), default=0)

    return max(below(name, ()) for name in uses)


def test_a_circle_of_imports_is_noticed() -> None:
    assert depth({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == 3
    with pytest.raises(AssertionError, match="a -> b -> a"):
        depth({"a": {"b"}, "b": {"a"}})


def test_the_laboratory_stays_outside_the_package() -> None:
    for path in modules():
        tree = ast.walk(parsed(path))
        named = [(n.module or "") for n in tree if isinstance(n, ast.ImportFrom)]
        assert not any(name.split(".")[0] in ("benchmarks", "tests", "helpers") for name in named), path


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
    "anywidget",
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


@pytest.mark.process
def test_importing_us_imports_no_optional_library() -> None:
    code = f"import sys, gradgeo; dir(gradgeo); gradgeo.Detector; print([m for m in {OPTIONAL} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.process
def test_what_needs_optional_libraries_can_be_imported_without() -> None:
    missing = [name for name in OPTIONAL if name != "sympy"]  # which torch.fx needs
    ours = "gradgeo.bench, gradgeo.report, gradgeo.scoring, gradgeo.export, gradgeo.data"
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); import {ours}, benchmarks"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


EXAMPLES = [
    pytest.param("gradgeo", marks=pytest.mark.witness),
    *(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "gradgeo.")),
]


@pytest.mark.example
@pytest.mark.rounding
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    torch.manual_seed(0)
    assert doctest.testmod(module).failed == 0


def test_files_with_the_mark_of_rounding_are_found_by_its_name(request: pytest.FixtureRequest) -> None:
    """`make rounding` collects no other files."""
    marked = {item.path for item in request.session.items if item.get_closest_marker("rounding")}
    assert marked
    assert {path for path in marked if "pytest.mark.rounding" not in path.read_text()} == set()


def test_every_module_says_what_it_is_for() -> None:
    for path in [*modules(), PACKAGE / "__init__.py"]:
        first = (ast.get_docstring(parsed(path)) or "").split("\n")[0]
        assert len(first) > 20, path
