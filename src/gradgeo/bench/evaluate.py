"""One classifier, every scenario, every method: the run that fills the benchmark's page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgeo.bench import causes, comparison, made_ranking
from gradgeo.bench.cache import CacheError
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.cost import facts as cost_facts
from gradgeo.bench.methods import METHODS, Method
from gradgeo.bench.provenance import provenance
from gradgeo.bench.scenarios import SCENARIOS, Generated, Scenario, Task
from gradgeo.bench.scores import Group, MethodScores, score_or_errors, shared_groups
from gradgeo.errors import GradgeoError

SCHEMA = 1

SPLIT_INPUTS = 100
"""Inputs of each scenario that a detector of another fit scores: enough to tell how much its figures vary."""

MADE_FIT = 1
"""The further fit that scores outliers made from the fit inputs it leaves out, where no others are wanted."""

TRUSTED = "trusted"
"""Among the scenarios' inputs: the trusted ones, which detectors are to tell from the others."""

Say = Callable[[str], None]


def silent(text: str) -> None:
    """Say nothing."""


def evaluate(
    task: Task,
    *,
    scenarios: dict[str, Scenario] | None = None,
    methods: dict[str, Method] | None = None,
    splits: Sequence[int] = (),
    beside: bool = True,
    command: str = "gradgeo bench",
    say: Say = silent,
) -> dict[str, Any]:
    """Scores, figures and differences of `methods` on `scenarios` for one classifier, ready for JSON.

    A scenario that cannot be generated and a method that fails keep their place, with the reason.

    Args:
        splits: seeds above 0 of further fits of each method, each on a random half of the fit inputs, which score the
            first `SPLIT_INPUTS` inputs of each scenario; with 5 or more the intervals are over inputs and fits.
        beside: whether costs are measured and methods judge outliers made from trusted inputs, too, which takes one
            further fit of each where there are no `splits`.
    """
    classifier, methods = task.classifier, methods or METHODS
    described, inputs = generate(task, SCENARIOS if scenarios is None else scenarios, say)
    wanted = other_inputs(classifier, inputs, splits, beside=beside)
    results: dict[str, MethodScores | Exception] = {}
    refits: dict[str, tuple[comparison.Scores, ...]] = {}
    made: dict[str, dict[str, float]] = {}
    for group in shared_groups(methods):
        say(f"{classifier.name}: scoring with {', '.join(group)}")
        results |= score_or_errors(group, classifier, inputs, timed=beside)
        others = _refits(group, classifier, wanted, splits)
        refits |= {name: found for name, (found, _) in others.items()}
        made |= {name: areas for name, (_, areas) in others.items()}
    scores: dict[str, comparison.Scores] = {}
    used: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        used[name] = {"peer": method.peer, "passes": method.passes, "error": None, "ms_per_input": None}
        used[name]["cost"] = None
        used[name] |= {"source": method.source, "library": method.library}
        result = results[name]
        if isinstance(result, Exception):
            used[name]["error"] = _portable(f"{type(result).__name__}: {result}")[:300]
            continue
        scores[name] = _separated(result, refits[name])
        used[name] |= {"ms_per_input": result.ms_per_input, "cost": cost_facts(result.costs)}
    peers = {name for name, facts in used.items() if facts["peer"]}
    kinds = {name: facts["kind"] for name, facts in described.items()}
    accuracy = float(classifier.correct[classifier.half :].double().mean())
    compared = _compared(scores, peers, kinds, accuracy)
    return {
        "schema": SCHEMA,
        "made": provenance(command),
        "model": {
            "name": classifier.name,
            "classes": classifier.logits.shape[1],
            "accuracy": accuracy,
            "fitted_on": int(classifier.correct[: classifier.half].sum()),
            "trusted": len(inputs[TRUSTED]),
        },
        "columns": described,
        "methods": used,
        **compared,
        "causes": {
            name: causes.table(found.causes, kinds, TRUSTED)
            for name, found in results.items()
            if isinstance(found, MethodScores) and found.causes is not None
        },
        "made_outliers": made_ranking.ranking(made, _whole(compared), peers),
    }


def generate(
    task: Task, scenarios: dict[str, Scenario], say: Say = silent
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """The description of each scenario that applies, and the inputs of those that have any; the trusted come first."""
    described: dict[str, dict[str, Any]] = {}
    inputs = {TRUSTED: task.x}
    for name, scenario in scenarios.items():
        if not scenario.applies(task):
            continue
        say(f"{task.classifier.name}: generating {name}")
        generated, error = _inputs_or_error(scenario, task)
        described[name] = {
            "cause": scenario.cause,
            "kind": generated.kind or scenario.kind,
            "count": len(generated.x),
            "success_rate": generated.success,
            "note": generated.note,
            "error": error,
        }
        if len(generated.x):
            inputs[name] = generated.x
    return described, inputs


def _compared(
    scores: dict[str, comparison.Scores], peers: set[str], kinds: dict[str, str], accuracy: float
) -> dict[str, Any]:
    ours = [name for name in scores if name not in peers]
    if ours:
        return comparison.compare(scores, ours=ours[0], peers=peers, kinds=kinds, accuracy=accuracy)
    without_tests = comparison.described(scores, peers=peers, kinds=kinds, accuracy=accuracy)
    return {**without_tests, "differences": {}, "tallies": {}}  # nothing to test the peers against


def _whole(compared: dict[str, Any]) -> dict[str, Any]:
    """The summaries of the methods that have figures in every scenario where any has."""
    cells = compared["cells"]
    measured = set().union(*cells.values()) if cells else set()
    return {name: entry for name, entry in compared["summary"].items() if set(cells[name]) == measured}


def _refits(
    group: Group, classifier: ClassifierUnderTest, wanted: dict[int, dict[str, Tensor]], splits: Sequence[int]
) -> dict[str, tuple[tuple[comparison.Scores, ...], dict[str, float]]]:
    """Of each method of a group the scores fitted on other halves, none where it fails on one of them; and the AUROC of
    each kind of made outlier."""
    found: dict[str, list[comparison.Scores]] = {name: [] for name in group}
    areas: dict[str, dict[str, float]] = {name: {} for name in group}
    for seed, inputs in wanted.items():
        for name, result in score_or_errors(group, classifier.refitted(seed), inputs, timed=False).items():
            if isinstance(result, Exception):
                continue
            areas[name] |= made_ranking.areas(result.scores)
            if seed in splits:
                found[name].append(_separated(result))
    return {name: (tuple(each) if len(each) == len(splits) else (), areas[name]) for name, each in found.items()}


def other_seeds(splits: Sequence[int]) -> tuple[int, ...]:
    """Of the further fits where `splits` are wanted: one at least, whose detectors judge made outliers."""
    return tuple(splits) or (MADE_FIT,)


def other_inputs(
    classifier: ClassifierUnderTest, inputs: dict[str, Tensor], splits: Sequence[int], *, beside: bool = True
) -> dict[int, dict[str, Tensor]]:
    """What detectors of the further fits score, by seed: the first of `inputs`; those of the first fit also outliers
    made of the inputs that it leaves out."""
    wanted = {seed: first_inputs(inputs) for seed in splits}
    if beside:
        first = other_seeds(splits)[0]
        wanted[first] = wanted.get(first, {}) | made_ranking.inputs(classifier.refitted(first))
    return {seed: found for seed, found in wanted.items() if found}


def first_inputs(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that detectors of other fits score."""
    return {scenario: x[:SPLIT_INPUTS] for scenario, x in inputs.items()}


def _separated(result: MethodScores, refits: tuple[comparison.Scores, ...] = ()) -> comparison.Scores:
    untrustworthy = {
        scenario: values
        for scenario, values in result.scores.items()
        if scenario != TRUSTED and not scenario.startswith(made_ranking.PREFIX)
    }
    return comparison.Scores(result.scores[TRUSTED], untrustworthy, refits)


def _inputs_or_error(scenario: Scenario, task: Task) -> tuple[Generated, str | None]:
    try:
        return scenario.inputs(task), None
    except CacheError:
        raise
    except GradgeoError as error:
        return Generated(torch.empty(0)), _portable(str(error))


def _portable(text: str) -> str:
    """`text` without the folders of this machine, as results are published."""
    for folder, short in ((Path.cwd(), "."), (Path.cwd().parent, ".."), (Path.home(), "~")):
        text = text.replace(f"{folder}/", f"{short}/") if folder != Path("/") else text
    return text
