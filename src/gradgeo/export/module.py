"""A fitted detector as one module of tensor operators: inputs to logits, outlier score, p-value and verdict.

The evidence, the one-class models and their joining are the very functions that `Detector` runs; only the forward pass
is another, whose gradients are a graph instead of autograd's.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from gradgeo.classifier.prepared import clean
from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.measurements import EvidenceContext, displacements
from gradgeo.errors import ExportError, GradgeoError
from gradgeo.export import torch_internals
from gradgeo.export.plain_forms import PlainForms
from gradgeo.export.traced import GradientGraphs
from gradgeo.geometry.chunking import MANY
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.options import Maps
from gradgeo.geometry.similarity import cosine_similarity_matrix, cosines

OUTPUTS = ("logits", "outlier_score", "p_value", "trusted")
EXPLAINED = ("surprisal", "saliency")
"""Behind them, where asked for."""


class GraphJacobian(InputJacobian):
    """A forward pass by the graphs of a traced classifier instead of the classifier and autograd."""

    def __init__(self, graphs: GradientGraphs, x: Tensor) -> None:
        batch = clean(x, traced=True)
        logits, features, layers, self._saved = graphs(batch.x)  # (N, C), (N, F)
        super().__init__(batch, logits, features, layers=layers, rank=graphs.rank, weight=graphs.weight)
        self._graphs = graphs

    def _rows(self, cotangents: Tensor) -> Tensor:
        cotangents = cotangents.transpose(0, 1).to(self.x.dtype)  # (K, N, R)
        rows = self._graphs.vjp(self._saved, cotangents).transpose(0, 1)  # (N, K, *input)
        self.has_gradient = self.has_gradient | rows.flatten(1).any(1)
        return rows

    @cached_property
    def gram(self) -> Tensor:
        """(N, R, R), of all inputs together: a graph has no loop over a varying batch."""
        rows = self.basis.flatten(2).double()  # (N, R, d)
        return rows @ rows.mT

    def affordable_parts(self, rows: Tensor) -> Sequence[Tensor]:
        """All at once: in how many parts a varying batch would go is not known."""
        return (rows,)

    def again(self, x: Tensor) -> "GraphJacobian":
        """Another pass, for other inputs."""
        return GraphJacobian(self._graphs, x)

    def logits_at(self, x: Tensor) -> Tensor:
        """The logits (N, C) of other inputs, NaN where these are not finite."""
        batch = clean(x, traced=True)
        return torch.where(batch.usable[:, None], self._graphs(batch.x)[0], torch.nan)


class GraphContext(EvidenceContext):
    """What is known of a batch, with the matrices of all inputs computed together instead of one after another."""

    def _cosines(self, *, sign: bool, temperature: float | None = None) -> Tensor:
        jacobian, maps = cast(GraphJacobian, self.forward), self._maps_of(sign, temperature)
        # The ways of `similarity.csm_of`, chosen as there, so that the matrices are rounded as the detector's are.
        classes = maps.select(jacobian.logits)  # (N, K)
        many = classes.shape[1] >= MANY
        if many and sign:
            signs = jacobian.maps(maps).flatten(2)  # (N, K, d)
            products = (signs @ signs.mT).double()  # (N, K, K), exact
            matrix = cosines(products, products.diagonal(dim1=1, dim2=2))
        elif many and not maps.channel_max and classes.shape[1] >= jacobian.rank:
            coefficients = jacobian.coefficients(maps.loss.cotangents(jacobian.logits, classes)[0])  # (N, K, R)
            products = coefficients @ jacobian.gram @ coefficients.mT  # (N, K, K)
            matrix = cosines(products, products.diagonal(dim1=1, dim2=2))
        else:
            matrix = cosine_similarity_matrix(jacobian.maps(maps))
        defined = (jacobian.has_gradient & jacobian.usable)[:, None, None]
        return torch.where(defined, matrix.to(jacobian.logits.dtype), torch.nan)


class DetectorModule(nn.Module):
    """A detector and its classifier: inputs (N, *input) -> the `OUTPUTS` by name.

    Args:
        detector: fitted.
        graphs: its classifier's.
        x: an input or more, for the shape.
        explain: give the `EXPLAINED` outputs too.
    """

    def __init__(self, detector: Detector, graphs: GradientGraphs, x: Tensor, *, explain: bool = False) -> None:
        super().__init__()
        self.explain = explain
        self.graphs = graphs
        fitted = detector.fitted_
        maps = fitted.extractor.maps
        maps = _Unchecked(**{field.name: getattr(maps, field.name) for field in fields(maps)})
        self._extractor = replace(fitted.extractor, maps=maps)
        self._fusion = fitted.fusion
        self._threshold = detector.settings.level.threshold(fitted.calibration_size)
        self.moves = nn.Buffer(displacements(x, self._extractor.radius))
        self.calibration = nn.Buffer(torch.from_numpy(fitted.calibration.outlier_scores))

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What is measured."""
        return self._extractor.evidence

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits (N, C), outlier score and p-value (N,) float64, trusted (N,) bool; NaN and False where undefined."""
        jacobian = GraphJacobian(self.graphs, x)
        with PlainForms():
            features = self._extractor.features(self.context(jacobian))  # of each evidence (N, F)
            scores = self._fusion.scores(features, jacobian.predicted)  # (N, M)
            score = self._fusion.fuse(scores)  # (N,)
            explained = self._explained(jacobian, scores) if self.explain else ()
            below = torch.searchsorted(self.calibration[None], score[None])[0]  # (N,) calibration scores below each
        # Runtimes do not all carry NaN through minima and comparisons, so it is carried around them.
        undefined = torch.stack([table.isnan().any(1) for table in features]).any(0) | score.isnan()
        n = self.calibration.shape[0]
        p = torch.where(undefined, torch.nan, (1 + n - below).double() / (n + 1))  # as `conformal.p_values`
        outputs = (
            torch.where(jacobian.finite[:, None], jacobian.logits, torch.nan),
            torch.where(undefined, torch.nan, score),
            p,
            (p > self._threshold) & ~undefined,
        )
        names = (*OUTPUTS, *EXPLAINED) if self.explain else OUTPUTS
        return dict(zip(names, (*outputs, *explained), strict=True))

    def _explained(self, jacobian: GraphJacobian, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The surprisal of each question (N, Q), and the gradient of the predicted class's loss (N, *input)."""
        maps = replace(self._extractor.maps, classes=2, sign=False, channel_max=False)
        return self._fusion.group_surprisal(scores), jacobian.maps(maps)[:, 0]

    def context(self, jacobian: GraphJacobian) -> EvidenceContext:
        """What the evidence measures."""
        gradients = any(e.neighbourhood == "gradients" for e in self.evidence)
        extractor = self._extractor
        return GraphContext(jacobian, extractor.maps, extractor.radius, gradients=gradients, moves=self.moves)


class _Unchecked(Maps):
    """Maps of chosen classes that were checked before: checking reads their values."""

    def _chosen(self, classes: Tensor, n: int, total: int) -> Tensor:
        return classes.long()


def refuse_what_does_not_trace(module: DetectorModule, x: Tensor) -> None:
    """Raise for evidence that reads values, by name, before any long work.

    Raises: ExportError.
    """
    world = torch_internals.Symbolic()
    with world.mode, torch.no_grad(), PlainForms():
        context = module.context(GraphJacobian(module.graphs, world.batch(x)))
        for evidence in module.evidence:
            try:
                evidence.measure(context)
            except GradgeoError:
                raise
            except Exception as error:  # whatever a measurement of the user's own does when tensors have no values
                first = (str(error).strip().splitlines() or [""])[0][:200]
                raise ExportError(
                    f"evidence {evidence.name!r} cannot be exported: it reads values or leaves torch "
                    f"({type(error).__name__}: {first}). Write it in torch without masks as indices, .item() or "
                    "NumPy, or fit a detector without it."
                ) from error
