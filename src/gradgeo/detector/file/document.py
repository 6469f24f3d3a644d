"""The JSON of a detector file: which fields it has, and what each may hold."""

import math
import re
from collections.abc import Callable
from typing import Any

from gradgeo.detector.one_class.base import ensure
from gradgeo.detector.one_class.kinds import DENSITIES, KINDS
from gradgeo.detector.weighing import EMPHASES
from gradgeo.geometry.losses import LOSSES

SCHEMA = 2
LONGEST_REASON = 1000  # characters of why a detector was calibrated anew
LARGEST_INPUT = 1 << 24  # entries; comparing models takes two inputs


def check(document: Any) -> None:
    """ValueError unless every field is of the type and range that `write` gives it."""
    ensure(isinstance(document, dict), "its settings are not a JSON object")
    ensure(
        document.get("schema") == SCHEMA,
        f"schema {document.get('schema')!r} is not {SCHEMA}; fit again with this version",
    )
    _fields(document, {"versions": is_texts, "settings": _is_object, "fitted": _is_object, "fingerprint": _is_object,
                       "notes": _is_object, "schema": _count})  # fmt: skip
    settings, fitted = document["settings"], document["fitted"]
    _fields(settings, {
        "evidence": lambda v: isinstance(v, list) and all(map(_text, v)) and 0 < len(v) == len(set(v)),
        "alpha": _share, "calibration": _share, "seed": _count, "batch_size": _count, "loss": _text,
        "classes": lambda v: v is None or _count(v) or _counts(v),
        "temperature": lambda v: _text(v) or _number(v),
    }, {
        "confidence": _share, "noise": _positive,
        "rescale": _flag, "channel_max": _flag, "one_class": DENSITIES.__contains__, "emphasis": EMPHASES.__contains__,
    })  # fmt: skip
    _fields(fitted, {
        "input_shape": lambda v: _counts(v) and 0 < math.prod(v) <= LARGEST_INPUT,
        "num_classes": _count, "loss": LOSSES.__contains__,
        "temperature": _positive, "radius": _positive,
        "one_class": lambda v: isinstance(v, list) and all(_text(name) and name in KINDS for name in v),
        "questions": lambda v: isinstance(v, list) and all(map(_text, v)),
        "fit_size": _count, "calibration_size": _count, "misclassified": _count, "unusable": _count,
    }, {
        "groups": lambda v: _is_names(v) and bool(v), "columns": _is_names,
        "lineage": _is_lineage, "record": _is_object, "weighed": _is_object,
    })  # fmt: skip
    _fields(document["fingerprint"], {
        "weights": lambda v: v is None or _text(v),
        "logits": lambda v: v is None or (_is_rows(v) and len(v) == 2),
    })  # fmt: skip

    columns = fitted.get("columns")
    ensure(columns is None or [len(columns)] == fitted["input_shape"], "columns are not the entries of an input")
    ensure(len(fitted["one_class"]) == len(fitted["questions"]) == len(settings["evidence"]), "its evidence is unclear")


Rules = dict[str, Callable[[Any], bool]]


def _fields(value: dict[str, Any], rules: Rules, later: Rules | None = None) -> None:
    """ValueError unless all of `rules` are there and nothing else but `later`, fields that earlier versions did not
    write."""
    optional = later or {}
    rest = set(value) - set(optional)
    ensure(rest == set(rules), f"expected the fields {', '.join(rules)}, got {', '.join(value)}"[:500])
    for name, rule in (rules | optional).items():
        ensure(name not in value or rule(value[name]), f"{name} is not valid")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value)


def is_texts(value: Any) -> bool:
    """Whether it is a mapping of texts."""
    return isinstance(value, dict) and all(map(_text, value.values()))


def _is_lineage(value: Any) -> bool:
    """What `FittedDetector.lineage` is in a file."""
    return isinstance(value, list) and all(
        is_texts(each)
        and set(each) == {"digest", "why", "date"}
        and re.fullmatch("[0-9a-f]{64}", each["digest"]) is not None
        and len(each["why"]) <= LONGEST_REASON
        and re.fullmatch(r"\d{4}-\d\d-\d\d", each["date"]) is not None
        for each in value
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -(2.0**1000) < value < 2.0**1000


def _share(value: Any) -> bool:
    return _number(value) and 0 < value < 1


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(map(_numbers, value)) and len({len(row) for row in value}) == 1


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_count, value))
