"""What a detector file keeps of the inputs that it was made from, which `gradgeo info` says; see docs/privacy.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradgeo._typing import Array
from gradgeo.detector.calibration.calibration_set import CalibrationSet
from gradgeo.detector.calibration.mondrian import CalibrationGroups
from gradgeo.detector.one_class.base import ClassMeans, NearestNeighbours, OneClass


def held(
    names: Sequence[str],
    members: Sequence[OneClass],
    calibration: CalibrationSet,
    groups: CalibrationGroups | None,
    mistakes: Array | None,
    notes: Mapping[str, Any],
) -> dict[str, str]:
    """By kind, how much there is of it, "none" for nothing."""
    named = list(zip(names, members, strict=True))
    rows = [f"{len(m.references)} x {m.width} ({name})" for name, m in named if isinstance(m, NearestNeighbours)]
    means = [f"{len(m.means)} x {m.width} ({name})" for name, m in named if isinstance(m, ClassMeans)]
    n, statistics = calibration.features.shape
    return {
        "inputs, pictures, file names": "none",
        "rows of features of trusted inputs": ", ".join(rows) or "none",
        "means of features of trusted inputs by class": ", ".join(means) or "none",
        "statistics of each calibration input": f"{n} x {statistics}" if statistics else "none",
        "scores of each calibration input": f"{n} x {calibration.scores.shape[1]}",
        "positions and classes of calibration inputs": str(n),
        "groups of calibration inputs": "none" if groups is None else f"{n}, of {len(groups.names)} with their names",
        "scores of mistakes": str(len(mistakes)) if mistakes is not None and len(mistakes) else "none",
        "notes": ", ".join(notes) or "none",
    }
