"""One classifier, every scenario, every method: the run that fills the benchmark's page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Fit:
    """A fit of every method, and what the fitted ones judge."""

    classifier: ClassifierUnderTest
    """Its trusted inputs are fitted on."""
    inputs: dict[str, Tensor]
    """By scenario, and by kind of made outlier."""
    timed: bool = False
    """Whether costs are measured."""

    def scores(self, group: Group) -> dict[str, MethodScores | Exception]:
        """Of each method of a group, or why it has none; cached."""
        return score_or_errors(group, self.classifier, self.inputs, timed=self.timed)


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
    by_seed = fits(classifier, inputs, splits, beside=beside)
    found: dict[int, dict[str, MethodScores | Exception]] = {seed: {} for seed in by_seed}
    for group in shared_groups(methods):
        say(f"{classifier.name}: scoring with {', '.join(group)}")
        for seed, fit in by_seed.items():
            found[seed] |= fit.scores(group)
    results = found[0]
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
        scores[name] = replace(_separated(result), refits=_refits(name, found, splits))
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
            "fitted_on": len(classifier.trusted),
            "mistakes": len(classifier.with_mistakes[0]) - len(classifier.trusted),
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
        "made_outliers": made_ranking.ranking(_made(found), _whole(compared), peers),
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


def seeds_of_fits(splits: Sequence[int]) -> tuple[int, ...]:
    """Of all fits where further ones by `splits` are wanted: 0 is the fit on all trusted inputs; one further fit at
    least judges made outliers."""
    return 0, *(splits or (MADE_FIT,))


def fits(
    classifier: ClassifierUnderTest, inputs: dict[str, Tensor], splits: Sequence[int], *, beside: bool = True
) -> dict[int, Fit]:
    """The fits of a run by seed. The further ones judge the first of `inputs`; the first of them also outliers made of
    the trusted inputs that it leaves out."""
    found = {0: Fit(classifier, inputs, timed=beside)}
    first = {scenario: x[:SPLIT_INPUTS] for scenario, x in inputs.items()}
    found |= {seed: Fit(classifier.refitted(seed), first) for seed in splits}
    if beside:
        seed = seeds_of_fits(splits)[1]
        refitted = classifier.refitted(seed)
        made = made_ranking.inputs(refitted)
        if made:
            found[seed] = Fit(refitted, (first if seed in splits else {}) | made)
    return found


def _refits(
    name: str, found: Mapping[int, Mapping[str, MethodScores | Exception]], splits: Sequence[int]
) -> tuple[comparison.Scores, ...]:
    """A method's scores by the further fits; none where it fails in one of them."""
    each = [found[seed][name] for seed in splits]
    whole = [_separated(result) for result in each if isinstance(result, MethodScores)]
    return tuple(whole) if len(whole) == len(each) else ()


def _made(found: Mapping[int, Mapping[str, MethodScores | Exception]]) -> dict[str, dict[str, float]]:
    """The AUROC of each kind of made outlier, of each method that judged them."""
    areas: dict[str, dict[str, float]] = {}
    for results in found.values():
        for name, result in results.items():
            if isinstance(result, MethodScores):
                areas.setdefault(name, {}).update(made_ranking.areas(result.scores))
    return areas


def _separated(result: MethodScores) -> comparison.Scores:
    untrustworthy = {
        scenario: values
        for scenario, values in result.scores.items()
        if scenario != TRUSTED and not scenario.startswith(made_ranking.PREFIX)
    }
    return comparison.Scores(result.scores[TRUSTED], untrustworthy)


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
