"""What a notebook shows of a detector and of predictions: a little HTML in the notebook's own colours."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

SHOWN = 10
"""Rows of predictions that are shown."""

_CELL = "padding:.15em 1.2em .15em 0;text-align:left;border:0;background:none"
_NUMBER = _CELL.replace("left", "right")
_RULE = "border-bottom:1px solid rgba(128,128,128,.4)"


def detector(fitted: Any, evidence: Iterable[str]) -> str:
    """A `Detector`: what it measures, and what it was fitted on if it was.

    Args:
        fitted: the detector; its settings and the learned values, whose names end in _, are read.
        evidence: names of what it measures.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> "not fitted" in detector(gradgeo.Detector(model, evidence="paper"), ["csm"])
        True
    """
    pairs = {"evidence": ", ".join(evidence), "alpha": f"{fitted.alpha:g}"}
    if fitted.noise is not None:
        pairs["noise"] = f"{fitted.noise:g}"
    if hasattr(fitted, "fit_size_"):
        shape = " x ".join(map(str, fitted.input_shape_))
        pairs |= {
            "fitted on": f"{fitted.fit_size_:,} trusted inputs of shape {shape}",
            "calibrated on": f"{fitted.calibration_size_:,} others",
            "false alarms": str(fitted.false_alarm_rate_),
            "classes": f"{fitted.num_classes_:,}",
            "loss": f"{fitted.loss_}, temperature {fitted.temperature_:.3g}",
        }
        left_out = [(fitted.misclassified_, "misclassified"), (fitted.unusable_, "unusable")]
        if any(count for count, _ in left_out):
            pairs["left out"] = ", ".join(f"{count:,} {why}" for count, why in left_out if count)
        state = "fitted"
    else:
        state = "not fitted: call fit(data) with trusted inputs"
    return _block(f"<b>Detector</b> {escape(state)}", _pairs(pairs))


def predictions(verdicts: Any) -> str:
    """`Predictions`: how many are trusted, and the first `SHOWN` rows.

    Args:
        verdicts: tensors (N,) label, probability, outlier_score, p_value and trusted.

    Example:
        >>> import torch, gradgeo
        >>> numbers = torch.tensor([0.5, 0.25])
        >>> verdicts = gradgeo.Predictions(torch.tensor([3, 1]), numbers, numbers, numbers, numbers > 0.3)
        >>> "<b>2 predictions</b>, 1 trusted" in predictions(verdicts)
        True
    """
    count = len(verdicts.label)
    heading = ("", "label", "probability", "outlier score", "p-value", "")
    columns = (verdicts.label, verdicts.probability, verdicts.outlier_score, verdicts.p_value, verdicts.trusted)
    rows = []
    for i, (label, probability, score, p, trusted) in enumerate(
        zip(*(c[:SHOWN].tolist() for c in columns), strict=True)
    ):
        numbers = [f"{value:.3g}" for value in (probability, score, p)]
        rows.append([str(i), str(label), *numbers, "trusted" if trusted else "<b>not trusted</b>"])
    more = f"<p style='margin:.3em 0;opacity:.7'>and {count - SHOWN:,} more</p>" if count > SHOWN else ""
    title = f"<b>{count:,} prediction{'s' * (count != 1)}</b>, {int(verdicts.trusted.sum()):,} trusted"
    return _block(title, (_table(heading, rows) if rows else "") + more)


def _block(title: str, inside: str) -> str:
    return f"<div style='max-width:60em'><p style='margin:.3em 0'>{title}</p>{inside}</div>"


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th scope='row' style='{_CELL};font-weight:normal;opacity:.7'>{escape(name)}</th>"
        f"<td style='{_CELL}'>{escape(value)}</td></tr>"
        for name, value in pairs.items()
    )
    return f"<table style='border-collapse:collapse'>{rows}</table>"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th scope='col' style='{_NUMBER};{_RULE};font-weight:normal;opacity:.7'>{h}</th>" for h in heading)
    body = "".join("<tr>" + "".join(f"<td style='{_NUMBER}'>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table style='border-collapse:collapse'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
