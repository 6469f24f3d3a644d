"""The detectors that are compared, fitted on the same labelled inputs: ours, pytorch-ood's, and a few written here.

A method of your own takes one line: `METHODS["mine"] = Method(lambda model, x: my_detector)`, where `my_detector` has
pytorch-ood's two methods: `fit(loader)`, and `predict(x)` with outlier scores (N,), larger = less trustworthy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from gradgeo.bench import peers
from gradgeo.bench.cache import DETECTOR_CODE, GEOMETRY_CODE, source_hash
from gradgeo.bench.layer_peers import LayerMahalanobis, LocalDimensionality, NearestNeighbours
from gradgeo.bench.squeezing import FeatureSqueezing
from gradgeo.detector.detector import Detector
from gradgeo.integrations.pytorch_ood import OodDetector

PEER_CODE = (
    *GEOMETRY_CODE,
    *(f"bench/{name}.py" for name in ("methods", "peers", "layer_peers", "squeezing", "penultimate", "remembered")),
)
"""The code of ours that a peer's scores depend on, besides its own version."""

LIBRARY = "pytorch-ood, Apache-2.0"
"""Where most peers come from, and its licence."""


@dataclass(frozen=True)
class Method:
    """A detector that is compared."""

    make: Callable[[nn.Module, Tensor], Any]
    """The detector for a model, given a few of its inputs."""
    peer: bool = True
    """Whether it is another's; ours is tested against all peers."""
    passes: str = "1 forward"
    """What it costs for one input, for the page."""
    shared: bool = False
    """Whether it shares its passes with others of this mark. Ours are then `OodDetector`s that differ in their evidence
    alone; peers look at the same logits, features or layers."""
    source: str = ""
    """The paper, for the page."""
    library: str = ""
    """The library that it is from, with its licence; empty for what is written here."""

    @property
    def version(self) -> str:
        """What its scores depend on besides the model and the data."""
        if not self.peer:
            return source_hash(*DETECTOR_CODE)
        library = f"pytorch-ood {version('pytorch-ood')}" if find_spec("pytorch_ood") else ""
        return f"{library} {source_hash(*PEER_CODE)}"


def _ours(evidence: str, passes: str) -> Method:
    return Method(lambda model, x: OodDetector(Detector(model, evidence=evidence)), False, passes, shared=True)


def _library(make: peers.Make, source: str) -> Method:
    return Method(make, shared=True, source=source, library=LIBRARY)


def _written(make: peers.Make, source: str) -> Method:
    return Method(make, shared=True, source=source)


METHODS: dict[str, Method] = {
    "gradgeo": _ours("full", "up to 7 forward, min(C, F, 20) backward"),
    "gradgeo fast": _ours("fast", "up to 7 forward, 1 backward"),
    "gradgeo lite": _ours("lite", "3 forward"),
    "ten statistics": _ours("paper", "1 forward, min(C, F) backward"),
    "MaxSoftmax": _library(peers.on_logits("MaxSoftmax"), "Hendrycks and Gimpel 2017"),
    "MaxLogit": _library(peers.on_logits("MaxLogit"), "Hendrycks et al. 2022"),
    "EnergyBased": _library(peers.on_logits("EnergyBased"), "Liu et al. 2020"),
    "GEN": _library(peers.on_logits("GEN"), "Liu et al. 2023"),
    "KLMatching": _library(peers.on_logits("KLMatching"), "Hendrycks et al. 2022"),
    "ODIN": Method(peers.odin, passes="2 forward, 1 backward", source="Liang et al. 2018", library=LIBRARY),
    "Mahalanobis": _library(peers.on_class_means("Mahalanobis"), "Lee et al. 2018"),
    "Mahalanobis++": _library(peers.on_class_means("Mahalanobis", unit=True), "Mueller and Hein 2025"),
    "RMD": _library(peers.on_class_means("RMD"), "Ren et al. 2021"),
    "RMD++": _library(peers.on_class_means("RMD", unit=True), "Mueller and Hein 2025"),
    "layer Mahalanobis": _library(LayerMahalanobis, "Lee et al. 2018"),
    "KNN": _library(peers.on_features("KNN"), "Sun et al. 2022"),
    "NNGuide": _library(peers.on_features_and_head("NNGuide"), "Park et al. 2023"),
    "ViM": _library(peers.vim, "Wang et al. 2022"),
    "SHE": _library(peers.she, "Zhang et al. 2023"),
    "fDBD": _written(peers.FastBoundary, "Liu and Qin 2024"),
    "DICE": _library(peers.dice, "Sun and Li 2022"),
    "GradNorm": Method(
        peers.gradnorm,
        passes="1 forward, 1 backward of the last layer",
        source="Huang et al. 2021",
        library=LIBRARY,
    ),
    "ReAct": _library(peers.on_features_and_head("ReAct"), "Sun et al. 2021"),
    "ASH": _library(peers.on_maps("ASH"), "Djurisic et al. 2023"),
    "SCALE": _library(peers.on_maps("SCALE"), "Xu et al. 2024"),
    "feature squeezing": Method(FeatureSqueezing, passes="3 forward", source="Xu, Evans and Qi 2018"),
    "LID": _written(LocalDimensionality, "Ma et al. 2018"),
    "DkNN": _written(NearestNeighbours, "Papernot and McDaniel 2018"),
}
"""Every method by name; peers at the defaults of pytorch-ood or of their papers, on penultimate features where they
take features, fitted on trusted inputs and predicted classes alone; ours learn from mistakes, too, where labels tell of
any. RMD is the relative Mahalanobis distance; with ++ features are of length 1."""
