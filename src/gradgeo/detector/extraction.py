"""Measuring evidence over whole sources of inputs: what `fit`, `predict` and `explain` have in common."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.classifier.wrapper import Model
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.measurements import EvidenceContext
from gradgeo.errors import UnusableInputWarning, expected, warn
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.options import Maps

UNBOUNDED = 1e6  # root mean square per input entry beyond which a boundary counts as not there


@dataclass(frozen=True)
class EvidenceFeatures:
    """What was measured of some inputs; NaN features where they cannot be judged."""

    features: list[Array]  # (N, F) of each evidence
    label: IntArray  # (N,), -1 where unusable
    probability: Array  # (N,)
    logits: Tensor | None = None  # (N, C), this and what follows where asked for
    csm: Tensor | None = None  # (N, K, K)
    classes: Tensor | None = None  # (N, K), of the CSM

    def __getitem__(self, rows: IntArray) -> "EvidenceFeatures":
        """Some of the inputs."""
        kept = (None if table is None else table[rows] for table in (self.logits, self.csm, self.classes))
        return EvidenceFeatures(
            [table[rows] for table in self.features], self.label[rows], self.probability[rows], *kept
        )

    @property
    def alive(self) -> BoolArray:
        """Whether every feature of a row is finite (N,)."""
        alive = np.ones(len(self.label), np.bool_)
        for table in self.features:
            alive &= np.isfinite(table).all(1)
        return alive


@dataclass(frozen=True)
class EvidenceExtractor:
    """Which evidence is measured, from which maps, and how large its neighbourhood is."""

    evidence: tuple[Evidence, ...]
    maps: Maps
    radius: float = 1.0

    def only(
        self, evidence: tuple[Evidence, ...], measured: EvidenceFeatures
    ) -> "tuple[EvidenceExtractor, EvidenceFeatures]":
        """The instrument of some of its evidence, and what it would have `measured`."""
        radius = self.radius if any(e.around for e in evidence) else 1.0
        features = [measured.features[self.evidence.index(e)] for e in evidence]
        return replace(self, evidence=evidence, radius=radius), replace(measured, features=features)

    def observe(self, forward: InputJacobian) -> EvidenceContext:
        """The observation that a forward pass is measured by."""
        return EvidenceContext(
            forward, self.maps, self.radius, gradients=any(e.around == "gradients" for e in self.evidence)
        )

    def features(self, seen: EvidenceContext) -> list[Tensor]:
        """The features (N, F) of each evidence, float64 on the CPU; NaN for unusable samples."""
        usable = seen.forward.usable[:, None]
        # Around comes last: by then the gradients that span all maps may be there, and serve at the input itself.
        order = sorted(self.evidence, key=lambda e: bool(e.around))
        found = {e.name: torch.where(usable, e.measure(seen).double(), torch.nan).cpu() for e in order}
        return [found[e.name] for e in self.evidence]

    def typical_radius(self, model: Model, inputs: Iterable[Tensor], *, batch_size: int) -> float:
        """The median first-order distance of trusted `inputs` to their nearest boundary, per root of input entries.

        A radius in units of the classifier's own: the same noise level would be nothing to one model and all to
        another.
        """

        def distances(forward: InputJacobian, rows: slice) -> Tensor:
            entries = max(1, forward.x[:1].numel())
            nearest: Tensor = self.observe(forward).boundary_distances[:, 0].exp() / entries**0.5
            return nearest.cpu()

        near = map_chunks(model, inputs, self.maps, distances, at_most=batch_size, quiet=True)
        if not near:
            raise expected("data", "the same at both readings", "no input at the second")
        found = torch.cat(near)
        found = found[found < UNBOUNDED]
        return float(found.median()) if len(found) else 1.0

    def measure(
        self,
        model: Model,
        inputs: Iterable[Tensor],
        *,
        batch_size: int,
        keep: tuple[str, ...] = (),
        quiet: bool = False,
    ) -> EvidenceFeatures:
        """Features, labels and probabilities of `inputs`, and which of "logits", "csm" and "classes" to `keep`; warns
        about inputs without, unless `quiet`."""

        def observed(forward: InputJacobian, rows: slice) -> tuple[Tensor, ...]:
            seen = self.observe(forward)
            features = self.features(seen)  # first, so that a CSM that is kept changes no rounding
            probability = forward.logits.double().softmax(1).amax(1)
            columns = (
                torch.where(forward.usable, forward.predicted, -1),
                torch.where(forward.usable, probability, torch.nan),
                *(forward.logits if name == "logits" else getattr(seen, name) for name in keep),
            )
            return (*(column.cpu() for column in columns), *features)

        parts = map_chunks(model, inputs, self.maps, observed, at_most=batch_size, quiet=quiet)
        if not parts:
            return EvidenceFeatures(
                [np.empty((0, len(e.features))) for e in self.evidence], np.empty(0, np.int64), np.empty(0)
            )
        label, probability, *others = (torch.cat(column) for column in zip(*parts, strict=True))
        kept, tables = dict(zip(keep, others, strict=False)), others[len(keep) :]
        measured = EvidenceFeatures([table.numpy() for table in tables], label.numpy(), probability.numpy(), **kept)
        if not quiet and (dead := int((~measured.alive & (measured.label >= 0)).sum())):
            warn(
                f"{dead} of {len(label)} inputs have no gradient at all (dead network): they cannot be judged.",
                UnusableInputWarning,
            )
        return measured
