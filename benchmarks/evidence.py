"""What each evidence is worth: alone, removed, joined in other ways; what it costs; and how often a cause is named."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.page import Page
from benchmarks.scenarios import shipped_scenarios
from benchmarks.shipped import Suite
from gradgeo._typing import Array
from gradgeo.bench.cache import CHUNK, DETECTOR_CODE, cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest, logits_of
from gradgeo.bench.evaluate import generate
from gradgeo.bench.scenarios import Task
from gradgeo.detector.evidence import EVIDENCE, PRESETS, had, left_out
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.fit.fitting import NEAREST, typical_temperature
from gradgeo.detector.fusion import EvidenceFusion
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps
from gradgeo.metrics import auroc, tnr_at_tpr

TUNED = ("cifar10", "fashion")  # the classifiers that evidence and joining were chosen on
FIT = 2000
"""Trusted inputs of the first half that the one-class models are fitted on."""
TIMED = 64
"""Inputs that a mode is timed on."""

EVERY = tuple(dict.fromkeys((*PRESETS["full"], *PRESETS["fast"])))


@dataclass(frozen=True)
class Sets:
    """What was measured of one classifier."""

    names: tuple[str, ...]
    """The evidence of `EVERY` that it has."""
    by_name: dict[str, EvidenceFeatures]
    """Of the trusted inputs to fit on ("fit"), of others ("trusted"), and of each scenario."""

    def having(self, names: Sequence[str]) -> tuple[str, ...]:
        """Of these those that it has."""
        return tuple(name for name in names if name in self.names)

    def tables(self, of: str, names: Sequence[str]) -> list[Tensor]:
        """The features of some evidence."""
        return [self.by_name[of].features[self.names.index(name)] for name in names]


def run(suite: Suite) -> Page:
    """Ablations on the classifiers that the evidence was chosen on."""
    page = Page("Evidence: what each is worth, alone and joined")
    page.say(
        f"Mean over the battery's scenarios, up to {suite.inputs} inputs each, of AUROC / TNR at 95 % TPR in %, and "
        f"the worst scenario's AUROC. Fitted on {FIT} trusted inputs of the first half of the test split, reported on "
        "the second; all questions count the same, where a detector learns their weights. These two classifiers are "
        "among those that evidence and joining were chosen on: results/battery.md has them all."
    )
    names = suite.wanted(TUNED)
    measured = {name: _measured(suite, suite[name]) for name in names}
    heading = ["", *names]
    page.say("## Modes and what they cost")
    modes = [("full", "min(C, F)"), ("fast", "1"), ("lite", "0"), ("paper", "min(C, F)")]
    rows = []
    for preset, backward in modes:
        cells = [_cell(page, name, f"preset {preset}", measured[name], PRESETS[preset]) for name in names]
        rows.append([preset, backward, *cells, *(f"{_seconds(suite[name], preset):.1f} s" for name in names)])
    page.table(["evidence", "backward passes", *names, *(f"1,000 inputs, {name}" for name in names)], rows)
    page.say("## Each alone, and the rest without it")
    rows = []
    for evidence in PRESETS["full"]:
        if all(evidence not in sets.names for sets in measured.values()):
            continue
        rest = tuple(e for e in PRESETS["full"] if e != evidence)
        alone = [
            _cell(page, name, f"only {evidence}", measured[name], (evidence,))
            if evidence in measured[name].names
            else "has none"
            for name in names
        ]
        without = [_cell(page, name, f"without {evidence}", measured[name], rest) for name in names]
        rows.append([evidence, *alone, *without])
    page.table(["evidence", *(f"alone, {n}" for n in names), *(f"without it, {n}" for n in names)], rows)
    page.say("## Other ways of joining the same evidence")
    rows = []
    for label, join in JOINING.items():
        rows.append([label, *(_figures(page, name, label, *_scored(measured[name], join)) for name in names)])
    page.table(heading, rows)
    page.say(
        "Flat ways reach about the same mean and lose more where one evidence alone knows the answer (misclassified "
        "and near-OOD inputs); the largest alone and Cauchy's combination miss what several see a little of."
    )
    return page


def _measured(suite: Suite, classifier: ClassifierUnderTest) -> Sets:
    """Every evidence, measured on the fit part, on other trusted inputs, and on each scenario."""
    order = torch.randperm(len(classifier.trusted), generator=torch.Generator().manual_seed(0))
    fit = classifier.trusted[order[:FIT].sort().values]
    _, inputs = generate(Task(classifier, suite.inputs), shipped_scenarios(suite))  # without data that is not at hand
    sets = {"fit": fit, **{name: x[: suite.inputs] for name, x in inputs.items() if len(x) > 1}}
    every = available(classifier, EVERY)
    return Sets(every, {name: measured_by(classifier, fit[:NEAREST], x, every) for name, x in sets.items()})


def available(classifier: ClassifierUnderTest, names: Sequence[str]) -> tuple[str, ...]:
    """Of these kinds of evidence those that a detector of them takes of the classifier."""
    x = [classifier.x[:1]]
    (forward,) = map_chunks(classifier.model, x, Maps(), lambda forward, rows: forward, layers=True, quiet=True)
    return tuple(each.name for each in had([EVIDENCE[name] for name in names], left_out(names), forward))


def measured_by(
    classifier: ClassifierUnderTest, typical: Tensor, x: Tensor, names: tuple[str, ...]
) -> EvidenceFeatures:
    """Some evidence of `x`, cached; `typical` trusted inputs set the temperature and the radius."""
    margins = -logits_of(classifier.model, typical).topk(2, dim=1).values.diff(dim=1)[:, 0]
    maps = Maps(Loss("cross_entropy", typical_temperature(margins.double().numpy())))
    extractor = EvidenceExtractor(tuple(EVIDENCE[name] for name in names), maps)
    radius = extractor.typical_radius(classifier.model, [typical], classifier.logits.shape[1], batch_size=CHUNK)
    extractor = EvidenceExtractor(extractor.evidence, maps, radius)

    def measure(part: Tensor) -> dict[str, Any]:
        measured = extractor.measure(classifier.model, [part], batch_size=64)
        tables = {name: table.numpy() for name, table in zip(extractor.names, measured.features, strict=True)}
        return {"label": measured.label.numpy(), "probability": measured.probability.numpy(), **tables}

    key = ("evidence", weights_key(classifier.model), source_hash(*DETECTOR_CODE), tensor_hash(typical), names)
    parts = [cached(partial(measure, part), *key, tensor_hash(part)) for part in torch.split(x, CHUNK)]
    joined = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    return EvidenceFeatures(tuple(joined[name] for name in extractor.names), joined["label"], joined["probability"])


def _fusion(sets: Sets, names: tuple[str, ...]) -> tuple[EvidenceFusion, dict[str, Tensor]]:
    """The fusion of some evidence, as far as the classifier has it, and the members' scores of every set."""
    names, label = sets.having(names), sets.by_name["fit"].label
    fusion = fusion_of(names, sets.tables("fit", names), label, int(label.max()) + 1, seed=0)
    others = {name: measured for name, measured in sets.by_name.items() if name != "fit"}
    return fusion, {name: fusion.scores(sets.tables(name, names), m.label) for name, m in others.items()}


def fusion_of(
    names: tuple[str, ...], features: Sequence[Tensor], predicted: Tensor, num_classes: int, *, seed: int
) -> EvidenceFusion:
    """The fusion of some evidence, as a detector would fit it."""
    kinds, questions = [EVIDENCE[n].one_class for n in names], [EVIDENCE[n].question for n in names]
    return EvidenceFusion.fit(kinds, questions, features, predicted, num_classes, seed=seed)[0]


def _cell(page: Page, name: str, label: str, sets: Sets, names: tuple[str, ...]) -> str:
    fusion, scores = _fusion(sets, names)
    joined = {name: fusion.fuse(s).numpy() for name, s in scores.items()}
    return _figures(page, name, label, joined.pop("trusted"), joined)


def _figures(page: Page, name: str, label: str, trusted: Array, scenarios: dict[str, Array]) -> str:
    areas = {name: auroc(trusted, scores).value for name, scores in scenarios.items()}
    caught = [tnr_at_tpr(trusted, scores, resamples=1).value for scores in scenarios.values()]
    mean, tnr, worst = float(np.mean(list(areas.values()))), float(np.mean(caught)), min(areas, key=lambda n: areas[n])
    page.data.setdefault("cells", {}).setdefault(name, {})[label] = {
        "auroc": mean,
        "tnr95": tnr,
        "columns": areas,
    }
    return f"{100 * mean:.1f} / {100 * tnr:.1f}, {worst} {100 * areas[worst]:.1f}"


def _scored(sets: Sets, join: Callable[[EvidenceFusion, Tensor], Tensor]) -> tuple[Array, dict[str, Array]]:
    fusion, scores = _fusion(sets, PRESETS["full"])
    joined = {name: join(fusion, s).numpy() for name, s in scores.items()}
    return joined.pop("trusted"), joined


def _cauchy(surprisal: Tensor) -> Tensor:
    """Liu and Xie, JASA 2020: the mean of tan((1/2 - p) pi), monotone in its p-value."""
    p = (-surprisal).exp().clamp(1e-12, 1 - 1e-12)
    return torch.tan((0.5 - p) * torch.pi).mean(1)


JOINING: dict[str, Callable[[EvidenceFusion, Tensor], Tensor]] = {
    "two steps, power 1.5 (ours)": lambda fusion, scores: fusion.fuse(scores),
    "two steps, sums": lambda fusion, scores: fusion.group_surprisal(scores).sum(1),
    "two steps, largest": lambda fusion, scores: fusion.group_surprisal(scores).amax(1),
    "one step, power 1.5": lambda fusion, scores: (fusion.by_evidence.of(scores) ** 1.5).sum(1),
    "one step, sum (Fisher)": lambda fusion, scores: fusion.by_evidence.of(scores).sum(1),
    "one step, largest (Tippett)": lambda fusion, scores: fusion.by_evidence.of(scores).amax(1),
    "one step, Cauchy": lambda fusion, scores: _cauchy(fusion.by_evidence.of(scores)),
}
"""How members' scores can become one; members and their surprisal are the same in all."""


def _seconds(classifier: ClassifierUnderTest, preset: str) -> float:
    """Wall time of 1,000 inputs, from one timed batch after another that warms up."""
    evidence = tuple(EVIDENCE[name] for name in available(classifier, PRESETS[preset]))
    extractor = EvidenceExtractor(evidence, Maps(Loss("cross_entropy", classifier.temperature)), 0.01)
    extractor.measure(classifier.model, [classifier.x[:TIMED]], batch_size=TIMED)
    start = time.perf_counter()
    extractor.measure(classifier.model, [classifier.x[:TIMED]], batch_size=TIMED)
    return 1000 * (time.perf_counter() - start) / TIMED
