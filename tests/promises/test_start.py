"""What starting costs, and what a newcomer sees: the command line answers without torch; names load when they are used."""

import importlib
import inspect
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gradgeo
from gradgeo import cli, scoring
from helpers import ROOT

HEAVY = ("torch", "sklearn", "scipy", "numpy", "pyarrow", "matplotlib", "rich", "pydantic")
ASKS = {
    "help": ["--help"],
    "help of a command": ["score", "--help"],
    "version": ["--version"],
    "completion of a command": [],
    "completion of an option": [],
}
COMPLETION = {"completion of a command": "gradgeo sc", "completion of an option": "gradgeo score --part"}
ANSWERS = {
    "help": "Usage: gradgeo",
    "help of a command": "--part-size",
    "version": f"gradgeo {gradgeo.__version__}",
    "completion of a command": "score",
    "completion of an option": "--part-size",
}


def environment(ask: str) -> dict[str, str]:
    if ask not in COMPLETION:
        return dict(os.environ)
    words = COMPLETION[ask]
    return {
        **os.environ, "_GRADGEO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))
    }  # fmt: skip


@pytest.mark.parametrize("ask", ASKS)
def test_the_command_line_answers_without_the_library(ask: str) -> None:
    code = (
        "import sys\n"
        "from gradgeo.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, *ASKS[ask]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(ask))
    assert ANSWERS[ask] in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


def cpu_seconds(*runs: tuple[list[str], dict[str, str]]) -> list[float]:
    """Of each command the least of six runs, in turn: other work on the machine only ever adds to it, and to all."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(6):
        for taken, (command, env) in zip(times, runs, strict=True):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, capture_output=True, check=True, env=env)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [min(taken) for taken in times]


@pytest.mark.process
@pytest.mark.parametrize("ask", ["help", "help of a command", "version", "completion of an option"])
def test_the_command_line_answers_at_once(ask: str) -> None:
    """Half a second where importing its two libraries takes a quarter; a ratio, because machines differ."""
    imports, command = [sys.executable, "-c", "import typer, rich"], [sys.executable, "-m", "gradgeo", *ASKS[ask]]
    libraries, answer = cpu_seconds((imports, dict(os.environ)), (command, environment(ask)))
    assert answer < 2 * libraries


@pytest.mark.witness
@pytest.mark.process
def test_completion_can_be_installed() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "gradgeo"],
        env={**os.environ, "_GRADGEO_COMPLETE": "source_bash"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "complete -o default -F _gradgeo_completion gradgeo" in script
    help_text = subprocess.run([sys.executable, "-m", "gradgeo", "--help"], capture_output=True, text=True).stdout
    assert "--install-completion" in help_text


def test_what_help_says_of_a_part_is_what_scoring_takes() -> None:
    assert importlib.import_module("gradgeo.cli.score").PART == scoring.PART


def test_the_version_stands_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/gradgeo/_version.py"
    written = [
        path for path in (ROOT / "src").rglob("*.py") if f'"{gradgeo.__version__}"' in path.read_text()
    ]  # fmt: skip
    assert [path.name for path in written] == ["_version.py"]


# What `import gradgeo` offers

SUBMODULES = [
    "attacks", "data", "demo", "errors", "evidence", "export", "integrations", "metrics", "ood", "plots", "report",
    "scoring", "watch",
]  # fmt: skip


def test_dir_shows_public_names_and_documented_submodules_alone() -> None:
    assert sorted(dir(gradgeo)) == sorted({*gradgeo.__all__, *SUBMODULES, "__doc__", "__version__"})


def in_a_fresh_interpreter(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_us_imports_no_library() -> None:
    assert in_a_fresh_interpreter(f"import sys, gradgeo; print([n for n in {HEAVY} if n in sys.modules])") == "[]"


@pytest.mark.process
def test_names_and_submodules_need_no_import_of_their_own() -> None:
    used = "print(gradgeo.plots.csm.__name__, gradgeo.metrics.auroc.__name__)"
    every = "print(*[n for n in dir(gradgeo) if getattr(gradgeo, n) is None])"
    model = "gradgeo.classifier.wrapper.Classifier(torch.nn.Linear(2, 2))"
    logits = f"import sys, torch; {model}.logits(torch.rand(3, 2))"
    compiler = "print('torch._dynamo' in sys.modules)"  # takes more than a second to import
    assert in_a_fresh_interpreter(f"import gradgeo; {used}; {every}; {logits}; {compiler}").split() == [
        "csm",
        "auroc",
        "False",
    ]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gradgeo' has no attribute 'abacus'"):
        _ = gradgeo.abacus
    with pytest.raises(ModuleNotFoundError, match=r"gradgeo\.abacus"):
        importlib.import_module("gradgeo.abacus")


def test_type_checkers_see_what_the_interpreter_does() -> None:
    """The imports under TYPE_CHECKING and the table of lazy names are written apart; they must say the same."""
    text = Path(gradgeo.__file__).read_text()
    block = text.split("if TYPE_CHECKING:")[1].split("\n\n\n")[0].split("\n__all__")[0]
    seen: dict[str, object] = {}
    exec("if True:" + block, seen)
    for name in (*gradgeo.__all__, *SUBMODULES):
        assert seen[name] is getattr(gradgeo, name), name


def test_help_begins_with_five_lines_of_an_example() -> None:
    """Which run: the examples in docstrings do."""
    first, example, *_ = (inspect.getdoc(gradgeo) or "").split("\n\n")
    assert len(first.splitlines()) == 1
    assert sum(line.startswith(">>>") for line in example.splitlines()) == 5


def test_signatures_name_types_and_not_what_is_inside_them() -> None:
    functions = [
        gradgeo.metrics.auroc, gradgeo.metrics.tnr_at_tpr, gradgeo.plots.roc, gradgeo.watch.Watch.update,
        gradgeo.Detector.fit, gradgeo.Detector.predict, gradgeo.Detector.p_value, gradgeo.csm, gradgeo.attacks.pgd,
    ]  # fmt: skip
    for function in functions:
        assert not re.search(r"numpy\._|_typing|Union\[", str(inspect.signature(function))), function
    assert "ArrayLike" in str(inspect.signature(gradgeo.metrics.auroc))


# Module paths and names that documentation has shown: none of them may stop working.

DOCUMENTED = """
gradgeo: Detector Predictions Judgement Explanation saliency_maps csm cosine_similarity_matrix csm_statistics STATISTICS
gradgeo: zeta local_minimum LocalMinimum directional_curvature tap GradgeoError GradgeoWarning guard
gradgeo.attacks: fgsm pgd minimum_norm csa evasion random_targets AttackResult
gradgeo.conformal: p_values needed
gradgeo.data: open_source Preprocess Source Indexed Stream Item Usable
gradgeo.data.digits: split
gradgeo.demo: digits_classifier letters run
gradgeo.detector: Detector
gradgeo.detector_file: inspect
gradgeo.errors: ArgumentError ModelError NotFittedError DataError DetectorFileError ExportError MissingDependencyError
gradgeo.errors: UnusableInputWarning
gradgeo.evidence: EVIDENCE PRESETS Evidence
gradgeo.export: onnx pt2 aoti write Agreement digest_of FORMATS
gradgeo.guarded: Guarded Answer UntrustedError
gradgeo.joint: Joint Surprise
gradgeo.metrics: auroc tnr_at_tpr auroc_difference tnr_difference holm Estimate Difference
gradgeo.models: load_model
gradgeo.observation: Observation Neighbourhood RADII DRAWS
gradgeo.one_class: OneClass ClassConditionalCopula UpperTail NearestNeighbours Residual NearestMean
gradgeo.ood: OodDetector
gradgeo.path: adversary decision_path DecisionPath
gradgeo.plots: csm saliency_maps csm_heat_maps Panel statistics roc path ENDINGS START END OTHER
gradgeo.report: write html Summary
gradgeo.scoring: score Summary COLUMNS PART
gradgeo.verdicts: Voice Statistic Reference
gradgeo.watch: Watch WatchState
"""
PATHS = [
    (module, name) for line in DOCUMENTED.split("\n") if line for module, names in [line.split(": ")]
    for name in names.split()
]  # fmt: skip


@pytest.mark.process
def test_every_documented_path_can_be_imported() -> None:
    lines = [f"from {module} import {name}; import {module}; {module}.{name}" for module, name in PATHS]
    assert in_a_fresh_interpreter("\n".join(lines)) == ""
    missing = [f"{module}.{name}" for module, name in PATHS if not hasattr(importlib.import_module(module), name)]
    assert missing == []


def test_a_short_path_is_the_module_itself() -> None:
    for short, canonical in gradgeo._MOVED.items():
        module = importlib.import_module(canonical)
        assert importlib.import_module(short) is module
        assert getattr(gradgeo, short.partition(".")[2]) is module
        assert module.__name__ == canonical
        assert module.__spec__.name == canonical


def test_the_commands_are_as_before() -> None:
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert names == [
        "demo",
        "fit",
        "score",
        "check",
        "recalibrate",
        "explain",
        "certify",
        "info",
        "card",
        "path",
        "report",
        "serve",
        "export",
        "bench",
    ]
