"""Whether to trust a single prediction of a PyTorch classifier, by geometric gradient analysis.

>>> import gradgeo
>>> from gradgeo.data import digits
>>> model, (x, y) = digits.digits_classifier(), digits.split()["fit"]  # any classifier, inputs it was not trained on
>>> detector = gradgeo.Detector(model, alpha=0.05).fit(x, y)
>>> detector.predict(1 - x[:5]).trusted  # negatives of digits
tensor([False, False, False, False, False])

Names and submodules are imported when they are first used, so `import gradgeo` costs next to nothing.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gradgeo._version import __version__ as __version__

if TYPE_CHECKING:  # what type checkers and editors see; `_NAMES` says the same to the interpreter
    from gradgeo import attacks, certificate, export
    from gradgeo import data as data
    from gradgeo import demo as demo
    from gradgeo import errors as errors
    from gradgeo import integrations as integrations
    from gradgeo import metrics as metrics
    from gradgeo import report as report
    from gradgeo import scoring as scoring
    from gradgeo import watch as watch
    from gradgeo.certificate import certify
    from gradgeo.classifier.split import tap
    from gradgeo.classifier.text import text
    from gradgeo.detector import evidence as evidence
    from gradgeo.detector.calibration.selection import fdr
    from gradgeo.detector.detector import Detector
    from gradgeo.detector.guard import guard
    from gradgeo.detector.results import Explanation, Judgement, Predictions
    from gradgeo.errors import GradgeoError, GradgeoWarning
    from gradgeo.geometry.neighbourhood import LocalMinimum, directional_curvature, local_minimum, zeta
    from gradgeo.geometry.saliency import saliency_maps
    from gradgeo.geometry.similarity import STATISTICS, cosine_similarity_matrix, csm, csm_statistics
    from gradgeo.integrations import pytorch_ood
    from gradgeo.report import plots as plots
    from gradgeo.scoring.site_check import SiteCheck, check

    ood = pytorch_ood

__all__ = [
    "STATISTICS",
    "Detector",
    "Explanation",
    "GradgeoError",
    "GradgeoWarning",
    "Judgement",
    "LocalMinimum",
    "Predictions",
    "SiteCheck",
    "attacks",
    "certificate",
    "certify",
    "check",
    "cosine_similarity_matrix",
    "csm",
    "csm_statistics",
    "directional_curvature",
    "export",
    "fdr",
    "guard",
    "local_minimum",
    "saliency_maps",
    "tap",
    "text",
    "zeta",
]

_NAMES = {
    "gradgeo.certificate": ("certify",),
    "gradgeo.classifier.split": ("tap",),
    "gradgeo.classifier.text": ("text",),
    "gradgeo.detector.detector": ("Detector",),
    "gradgeo.detector.guard": ("guard",),
    "gradgeo.detector.calibration.selection": ("fdr",),
    "gradgeo.detector.results": ("Explanation", "Judgement", "Predictions"),
    "gradgeo.errors": ("GradgeoError", "GradgeoWarning"),
    "gradgeo.geometry.neighbourhood": ("LocalMinimum", "directional_curvature", "local_minimum", "zeta"),
    "gradgeo.geometry.saliency": ("saliency_maps",),
    "gradgeo.scoring.site_check": ("SiteCheck", "check"),
    "gradgeo.geometry.similarity": ("STATISTICS", "cosine_similarity_matrix", "csm", "csm_statistics"),
}
"""The module that each public name is imported from."""

_SUBMODULES = (
    *("attacks", "certificate", "data", "demo", "errors", "evidence", "export", "integrations", "metrics"),
    *("ood", "plots", "report", "scoring", "watch"),
)
"""The submodules that the documentation describes, for `dir`; any other is an attribute too."""

_MOVED = {
    "gradgeo.conformal": "gradgeo.detector.calibration.conformal",
    "gradgeo.detector_file": "gradgeo.detector.file.serialization",
    "gradgeo.evidence": "gradgeo.detector.evidence",
    "gradgeo.guarded": "gradgeo.detector.guard",
    "gradgeo.joint": "gradgeo.detector.fusion",
    "gradgeo.models": "gradgeo.data.models",
    "gradgeo.observation": "gradgeo.detector.measurements",
    "gradgeo.one_class": "gradgeo.detector.one_class.base",
    "gradgeo.ood": "gradgeo.integrations.pytorch_ood",
    "gradgeo.path": "gradgeo.attacks.decision_path",
    "gradgeo.plots": "gradgeo.report.plots",
    "gradgeo.serve.judges": "gradgeo.serve.inference",
    "gradgeo.verdicts": "gradgeo.detector.results",
}
"""Short or former module paths that the documentation has named, and the modules they stand for."""

_RENAMED = {
    "gradgeo.conformal": {"needed": "min_calibration_size"},
    "gradgeo.joint": {"Joint": "EvidenceFusion", "Surprise": "TailSurprisal"},
    "gradgeo.observation": {"Observation": "EvidenceContext"},
    "gradgeo.serve.judges": {"private_copy": "private_file"},
    "gradgeo.verdicts": {"Voice": "EvidenceScore"},
}
"""Former names in such a module, and what they are called there now."""


def __getattr__(name: str) -> Any:
    """Import a public name or a submodule at its first use (PEP 562)."""
    for module, names in _NAMES.items():
        if name in names:
            value = getattr(import_module(module), name)
            break
    else:
        missing = AttributeError(f"module 'gradgeo' has no attribute {name!r}")
        if name.startswith("_"):
            raise missing
        try:
            value = import_module(f"gradgeo.{name}")
        except ModuleNotFoundError as error:
            raise missing if error.name == f"gradgeo.{name}" else error from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES, "__doc__", "__version__"})


class _MovedModules:
    """Lets `import gradgeo.plots` give the very module that `gradgeo.report.plots` is, not a copy of it.

    A finder and a loader by their methods; the base classes in importlib.abc would double the time of `import gradgeo`.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_MOVED[spec.name])
        spec.loader_state = module.__spec__  # the import system is about to replace it by `spec`
        return module

    def exec_module(self, module: ModuleType) -> None:
        alias = module.__spec__
        assert alias is not None
        module.__spec__ = alias.loader_state
        for former, name in _RENAMED.get(alias.name, {}).items():
            if not hasattr(module, former):
                setattr(module, former, getattr(module, name))


sys.meta_path.append(_MovedModules())
