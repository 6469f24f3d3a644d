"""Evidence: named measurements of how a classifier sees an input, all made from one shared forward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradgeo.errors import choice, expected
from gradgeo.geometry.saliency import ForwardPass, Maps
from gradgeo.geometry.similarity import STATISTICS, cosine_similarity_matrix, csm_statistics


class Observation:
    """What is known of a batch: its forward pass and what derives from it, each computed once when asked."""

    def __init__(self, forward: ForwardPass, maps: Maps) -> None:
        self.forward = forward
        self._maps = maps

    @cached_property
    def classes(self) -> Tensor:
        """The classes with a map (N, K). The predicted class is always one: where a chosen set lacks it, it takes the
        place of the least likely of the set."""
        logits, predicted = self.forward.logits, self.forward.predicted[:, None]
        classes = self._maps.select(logits).clone()
        absent = ~(classes == predicted).any(1, keepdim=True)
        least = logits.gather(1, classes).argmin(1, keepdim=True)
        return classes.scatter_(1, least, torch.where(absent, predicted, classes.gather(1, least)))

    @cached_property
    def position(self) -> Tensor:
        """Where the predicted class stands among `classes` (N,)."""
        return (self.classes == self.forward.predicted[:, None]).int().argmax(1)

    @cached_property
    def csm(self) -> Tensor:
        """The cosine similarity matrix (N, K, K); NaN where every map is zero, for then there is nothing to compare."""
        maps = self.forward.maps(Maps(self._maps.loss, self.classes))
        dead = ~maps.flatten(1).any(1)
        return cosine_similarity_matrix(maps).masked_fill_(dead[:, None, None], torch.nan)


@dataclass(frozen=True)
class Evidence:
    """A measurement: `measure` gives (N, len(features)) for an observation; NaN marks a sample it cannot judge."""

    name: str
    features: tuple[str, ...]
    measure: Callable[[Observation], Tensor]


def _csm(observation: Observation) -> Tensor:
    """The ten statistics of the signed CSM (Schwinn et al. 2021).

    Blind to small perturbations, which hardly turn the maps, and to near-OOD inputs that the network sees as it sees
    its own (see results/).
    """
    return csm_statistics(observation.csm, observation.position)


EVIDENCE: dict[str, Evidence] = {"csm": Evidence("csm", STATISTICS, _csm)}
"""Every evidence by name; add to it to use your own in `Detector(evidence=[...])`."""

PRESETS: dict[str, tuple[str, ...]] = {"paper": ("csm",)}
"""Named sets of evidence; "paper" is the ten statistics alone."""


def resolve(evidence: str | list[str] | tuple[str, ...]) -> tuple[Evidence, ...]:
    """The evidence a detector uses: a preset's name, or a list of evidence names."""
    if isinstance(evidence, str):
        choice("evidence", evidence, tuple(PRESETS))
        names = PRESETS[evidence]
    else:
        names = tuple(evidence)
    if not names:
        raise expected("evidence", "at least one name", "none")
    if len(set(names)) < len(names):
        raise expected("evidence", "names without repetition", ", ".join(map(str, names)))
    for name in names:
        choice("evidence", name, tuple(EVIDENCE))
    return tuple(EVIDENCE[name] for name in names)
