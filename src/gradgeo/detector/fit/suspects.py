"""Inputs that ought to be flagged, from what a user has at `fit`: made from trusted inputs, or misclassified."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import BoolArray, IntArray
from gradgeo.classifier.isolated_copy import unwrapped
from gradgeo.classifier.text import TextClassifier
from gradgeo.classifier.wrapper import Model
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.fit.made_outliers import FAMILIES, made_outliers
from gradgeo.detector.fit.narration import SILENT, FitObserver
from gradgeo.detector.fusion import FOLDS, MadeOf
from gradgeo.detector.weighing import MISTAKE
from gradgeo.errors import GradgeoError

SOURCES = 24
"""Trusted inputs that outliers are made from; no more than a fold of those that are learned from. Of twelve the weights
are as good, but what an attack looks like is learned too poorly to name it."""
FEWEST = 8
"""Of them; fewer tell nothing."""
MOST_MISTAKES = 100

KINDS = (
    *("mixed", "a little noise", "noise", "gain", "faded", "dark", "bright", "constant", "patched", "smoothed"),
    *("phases", "permuted", "attacked", "attacked a little"),
)
"""The made outliers that are looked at, among those of `made_outliers`."""


@dataclass(frozen=True)
class MeasuredSuspects:
    """What was measured of inputs that ought to be flagged."""

    measured: EvidenceFeatures
    """Of S inputs."""
    kind: IntArray
    """(S,) of each the index of its kind."""
    families: tuple[str, ...]
    """Of each kind."""
    sources: IntArray
    """Positions in the data of the trusted inputs that they were made from."""

    @classmethod
    def of(cls, made: Mapping[str, Tensor], measured: EvidenceFeatures, sources: IntArray) -> Self:
        """Of all outliers of each kind of `made`, one kind after another, as they were `measured`."""
        kind = np.repeat(np.arange(len(made)), [len(each) for each in made.values()])
        return cls(measured, kind, tuple(FAMILIES[name] for name in made), sources)

    def part(self, extractor: EvidenceExtractor, evidence: tuple[Evidence, ...]) -> Self:
        """Of some of the evidence of the `extractor` that measured them."""
        return replace(self, measured=extractor.part(self.measured, evidence))

    def among(self, learned: IntArray, mistakes: EvidenceFeatures) -> MadeOf:
        """With `mistakes` beside them, and sources as positions among the `learned` rows of the data."""
        count = len(mistakes.label)
        features = tuple(torch.cat(pair) for pair in zip(self.measured.features, mistakes.features, strict=True))
        label = torch.cat([self.measured.label, mistakes.label])
        usable: BoolArray = replace(self.measured, features=features, label=label).has_gradient.numpy()
        rows = torch.from_numpy(np.flatnonzero(usable))
        kind = np.concatenate([self.kind, np.full(count, len(self.families), np.int64)])
        return MadeOf(
            features=tuple(table[rows] for table in features),
            label=label[rows],
            kind=kind[usable],
            families=(*self.families, MISTAKE),
            sources=np.flatnonzero(np.isin(learned, self.sources)),
        )


def sources(learn_rows: IntArray, seed: int) -> IntArray:
    """Which trusted inputs outliers are made from, by their positions, ascending; none where they are too few."""
    count = min(SOURCES, len(learn_rows) // FOLDS)
    if count < FEWEST:
        return learn_rows[:0]
    drawn = np.random.default_rng([seed, 2]).permutation(len(learn_rows))[:count]
    return np.sort(learn_rows[drawn])


def mistakes_to_learn(mistakes: IntArray, apart: IntArray, seed: int) -> IntArray:
    """Positions of misclassified inputs that are not set `apart`, at most so many, ascending."""
    rows = np.setdiff1d(mistakes, apart)
    return np.sort(np.random.default_rng([seed, 3]).permutation(rows)[:MOST_MISTAKES])


def make(model: Model, x: Tensor, seed: int) -> dict[str, Tensor]:
    """Outliers of each kind made from trusted inputs `x` (n, *input); none of inputs of which they cannot be made.

    Texts, whose entries are embeddings and numbers of tokens, have none. A model without gradients is not attacked.
    """
    inner = unwrapped(model) if isinstance(model, torch.nn.Module) else model
    if isinstance(inner, TextClassifier) or x.ndim < 2 or not x.is_floating_point() or not bool(x.isfinite().all()):
        return {}
    try:
        return made_outliers(x, model=model, seed=seed, kinds=KINDS)
    except (GradgeoError, RuntimeError):  # no gradients, or no memory for them: a fit does not fail for that
        return made_outliers(x, seed=seed, kinds=[kind for kind in KINDS if FAMILIES[kind] != "attack"])


def measure(
    model: Model,
    x: Iterable[Tensor],
    rows: IntArray,
    extractor: EvidenceExtractor,
    *,
    batch_size: int,
    seed: int,
    observer: FitObserver = SILENT,
) -> MeasuredSuspects | None:
    """What the `extractor` measures of outliers made from the trusted inputs `x`, those at `rows`; None for none."""
    made = make(model, torch.cat([*x]), seed) if len(rows) else {}
    if not made:
        return None
    every = torch.cat([*made.values()])  # (S, *input)
    with observer.stage("outliers made from trusted inputs", len(every)) as advance:
        parts = torch.split(every, batch_size)
        measured = extractor.measure(model, parts, batch_size=batch_size, quiet=True, advance=advance)
    return MeasuredSuspects.of(made, measured, rows)
