"""The page of a report, from what was counted and the rows that are shown."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradgeo.errors import one_line, require
from gradgeo.report import about, parts, sentences, slider
from gradgeo.report.gallery import NAME, Card
from gradgeo.report.kinds import Share, listed
from gradgeo.report.recount import Recount
from gradgeo.report.summary import Summary, calibration_shares
from gradgeo.report.trend import Window, usual_inputs, usual_quartiles
from gradgeo.scoring.metadata import Metadata

TERMS = {
    "Trusted": "the p-value is larger than alpha. All other judged inputs are flagged.",
    "P-value": "the share of calibration inputs, which were trustworthy, that look at least as odd. Of trustworthy "
    "inputs at most a share of alpha has a p-value of alpha or less.",
    "Outlier score": "how far an input is from trusted ones, over all evidence; larger is less trustworthy.",
    "Significant evidence": "kinds of evidence whose own p-value is at most alpha. An input may be flagged for being a "
    "little odd in several ways while none is significant alone.",
    "CSM": "the cosine similarity matrix: how alike the gradients of the classes’ losses are. Blue is −1, opposite; "
    "red is 1, the same. The frame marks the predicted class.",
    "Likely cause": "what a flagged input most looks like: an attack, other data than the classifier knows, or an "
    "ambiguous one. A hint, not a finding.",
}


@dataclass(frozen=True)
class Failure:
    """A row without a verdict."""

    index: int
    name: str
    error: str


def render(
    name: str,
    summary: Summary,
    cards: Sequence[Card],
    failures: Sequence[Failure],
    found: Sequence[Window],
    *,
    kinds: tuple[list[Share], dict[str, list[Share]]],
    recounted: Recount | None = None,
    queue: dict[str, Any] | None = None,
    unfinished: bool = False,
) -> str:
    """The page.

    Args:
        name: of the file.
        summary: its counts.
        cards: flagged inputs, the largest outlier score first.
        failures: the first rows without a verdict.
        found: the windows of its drift.
        kinds: the classes, and the groups by column.
        recounted: its counts at other alphas; None where they cannot be told.
        queue: what the review queue takes, see `review.payload`; None without one.
        unfinished: whether the file will have more rows.
    """
    metadata = summary.metadata
    ranked, groups = kinds
    shown = listed(ranked, groups)
    script = "\n".join(['"use strict";', "(() => {", "const root = document;", parts.script(parts.PAGE), "})();"])
    markup = require("markupsafe", "report").Markup
    steps = None if recounted is None else slider.payload(recounted, summary, shown)
    heading = one_line(metadata.data or name)
    described = {"about": about.payload(heading, summary, ranked, groups) if summary.judged else None}
    data = {key: value for key, value in {**described, "steps": steps, "queue": queue}.items() if value is not None}
    values = {
        "TERMS": TERMS,
        "title": f"gradgeo report: {one_line(metadata.data or name)}",
        "heading": heading,
        "summary": summary,
        "metadata": metadata,
        "say": sentences,
        "unfinished": unfinished,
        "windows": found,
        "usual": usual_quartiles(usual_inputs(metadata)),
        "classes": ranked,
        "groups": groups,
        "reach": max((entry.high for each in (ranked, *groups.values()) for entry in each), default=1.0) or 1.0,
        "causes": [(cause and one_line(cause)[:NAME], count) for cause, count in summary.causes.most_common()],
        "evidence": sorted(metadata.evidence, key=lambda kind: -summary.significant[kind])
        if summary.significant
        else [],
        "errors": [(one_line(reason)[:NAME], count) for reason, count in summary.errors.most_common()],
        "cards": cards,
        "failures": failures,
        "calibration": _calibration(summary),
        "provenance": _provenance(name, metadata, summary),
        "places": {(entry.column, entry.value): place for place, entry in enumerate(shown)},
        "facts": slider.facts(summary),
        "told": slider.told(summary),
        "recounted": recounted,
        "queue": queue,
        "mark": slider.mark(recounted, summary),
        "data": {name: markup(_json(value)) for name, value in data.items()},
        "script": markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    text = parts.templates().get_template("report.html.j2").render(values)
    return parts.compact(text)


def _json(value: Any) -> str:
    """As text inside of a script element that is not executed: no tag can end it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _calibration(summary: Summary) -> list[float]:
    quantiles = summary.metadata.calibration_scores
    return [] if quantiles is None else calibration_shares(summary.score_edges, quantiles).tolist()


def _provenance(name: str, metadata: Metadata, summary: Summary) -> list[tuple[str, str]]:
    """What the file states of the run that wrote it."""
    stated = {
        "scores": name,
        "data": metadata.data,
        "model": metadata.model,
        "detector": metadata.detector and metadata.detector[:16],
        "alpha": None if metadata.alpha is None else f"{metadata.alpha:g}",
        "false alarms": metadata.false_alarm_rate and str(metadata.false_alarm_rate),
        "calibration inputs": None if metadata.calibration_size is None else f"{metadata.calibration_size:,}",
        "evidence": ", ".join(metadata.evidence) or None,
        "input shape": " x ".join(map(str, metadata.input_shape)) or None,
        "scored by gradgeo": metadata.gradgeo,
        "rows": f"{summary.rows:,}",
    }
    return [(key, one_line(value)) for key, value in stated.items() if value]
