"""The arrays of a detector file: what is written of a fitted detector and read again, each checked by its own class."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradgeo._typing import Array
from gradgeo.detector.calibration.calibration_set import CalibrationSet
from gradgeo.detector.calibration.mondrian import LAYOUT as GROUP_LAYOUT
from gradgeo.detector.calibration.mondrian import CalibrationGroups
from gradgeo.detector.fitted import FittedDetector
from gradgeo.detector.fusion import EvidenceFusion, TailSurprisal, checked_floors
from gradgeo.detector.one_class.base import ClassMeans, OneClass, checked_arrays, ensure
from gradgeo.detector.one_class.kinds import KINDS
from gradgeo.detector.weighing import CauseModel, checked_weights
from gradgeo.errors import DetectorFileError

Arrays = dict[str, NDArray[Any]]

_MISTAKES, _WEIGHTS, _FLOORS = "mistake_scores", "weights", "floors"
_BY_QUESTION, _CAUSES = "question_", "cause_"  # before the names of the arrays of `by_question` and `causes`


def arrays_of(fitted: FittedDetector) -> Arrays:
    """All of a fitted detector, by the names they have in a file."""
    fusion = fitted.fusion
    arrays = {
        **_as_laid_out(fitted.calibration, fitted.calibration.arrays()),
        **_as_laid_out(fusion.by_evidence, vars(fusion.by_evidence)),
        **_prefixed(_BY_QUESTION, _as_laid_out(fusion.by_question, vars(fusion.by_question))),
    }
    if (fusion.weights != 1).any():
        arrays[_WEIGHTS] = np.ascontiguousarray(fusion.weights, np.float64)
    if fusion.floors.any():
        arrays[_FLOORS] = np.ascontiguousarray(fusion.floors, np.float64)
    if fusion.causes is not None:
        arrays |= _prefixed(_CAUSES, _as_laid_out(fusion.causes, vars(fusion.causes)))
    for name, member in zip(fitted.extractor.names, fusion.members, strict=True):
        arrays |= _prefixed(f"{name}/", _as_laid_out(member, vars(member)))
    if fitted.groups is not None:
        arrays |= dict.fromkeys(GROUP_LAYOUT, np.ascontiguousarray(fitted.groups.of_row, np.int64))
    if fitted.mistakes is not None:
        arrays[_MISTAKES] = np.ascontiguousarray(fitted.mistakes, np.float64)
    return arrays


def _as_laid_out(
    owner: CalibrationSet | TailSurprisal | CauseModel | OneClass, arrays: Mapping[str, NDArray[Any]]
) -> Arrays:
    """The arrays in the types that the `LAYOUT` of their owner states."""
    return {name: np.ascontiguousarray(arrays[name], dtype=dtype) for name, (dtype, _) in owner.LAYOUT.items()}


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def kind_name(member: OneClass) -> str:
    """As `KINDS` has it; DetectorFileError for a model that is not there."""
    for name, kind in KINDS.items():
        if type(member) is kind:
            return name
    raise DetectorFileError(
        f"a one-class model of type {type(member).__name__} cannot be saved: it is not among "
        "gradgeo.detector.one_class.kinds.KINDS."
    )


def models_of(
    settings: dict[str, Any], fitted: dict[str, Any], arrays: Arrays
) -> tuple[EvidenceFusion, CalibrationSet, CalibrationGroups | None, Array | None]:
    """What the arrays are of, each checked by its own class; ValueError where one does not fit or is left over."""
    rest, classes, questions = dict(arrays), fitted["num_classes"], tuple(fitted["questions"])
    count = len(questions)

    def taken(names: Iterable[str], prefix: str = "") -> Arrays:
        return {name: rest.pop(prefix + name) for name in names if prefix + name in rest}

    members = []
    for name, kind in zip(settings["evidence"], fitted["one_class"], strict=True):
        with _naming(name):
            members.append(KINDS[kind].from_arrays(taken(KINDS[kind].LAYOUT, f"{name}/"), classes))
    means = {len(member.means) for member in members if isinstance(member, ClassMeans)}
    ensure(len(means) < 2, "means are not of the same classes")
    by_evidence = TailSurprisal.from_arrays(taken(TailSurprisal.LAYOUT), count)
    with _naming("questions"):
        by_question = TailSurprisal.from_arrays(taken(TailSurprisal.LAYOUT, _BY_QUESTION), len(set(questions)))
    calibration = CalibrationSet.from_arrays(taken(CalibrationSet.LAYOUT), fitted["calibration_size"], classes, count)
    groups = None
    if "groups" in fitted:
        groups = CalibrationGroups.from_arrays(fitted["groups"], taken(GROUP_LAYOUT), fitted["calibration_size"])
    mistakes = rest.pop(_MISTAKES, None)
    if mistakes is not None:
        (mistakes,) = checked_arrays({_MISTAKES: ("f8", ("mistakes",))}, {_MISTAKES: mistakes}, {}).values()
        ensure(bool((np.diff(mistakes) >= 0).all()), "the scores of mistakes are not sorted")
    asked = len(set(questions))
    weights = checked_weights(rest.pop(_WEIGHTS), asked) if _WEIGHTS in rest else np.ones(asked)
    floors = checked_floors(rest.pop(_FLOORS), asked) if _FLOORS in rest else np.zeros(asked)
    causes = taken(CauseModel.LAYOUT, _CAUSES)
    ensure(not rest, "it holds other arrays than its settings ask for")
    cause_model = CauseModel.from_arrays(causes, asked) if causes else None
    fusion = EvidenceFusion(
        tuple(members), questions, by_evidence, by_question, weights=weights, floors=floors, causes=cause_model
    )
    low, high = (np.sort(bound.numpy()) for bound in fusion.fuse_bounds(torch.from_numpy(calibration.scores)))
    between = (low <= calibration.outlier_scores) & (calibration.outlier_scores <= high)
    ensure(bool(between.all()), "calibration is not what its reference_scores join to")
    return fusion, calibration, groups, mistakes


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """ValueErrors say of which part of the file they are."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error
