"""What the page's slider shows at each alpha: sentences and numbers that are made here, once, in one form."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradgeo._typing import IntArray
from gradgeo.detector.calibration.conformal import exact_interval
from gradgeo.report import charts, sentences
from gradgeo.report.html.numbers import NONE, interval, number, percent
from gradgeo.report.kinds import Share
from gradgeo.report.recount import Recount
from gradgeo.report.summary import Summary

Fact = tuple[str, str]
"""A number and the words that stand above it."""


def facts(summary: Summary) -> list[Fact]:
    """What is expected at the alpha of a summary, and with labels what it is worth."""
    if not summary.judged:
        return []
    found = [("Coverage (trusted)", f"{percent(summary.trusted / summary.judged)} %")]
    rate = sentences.stated_rate(summary)
    if rate is not None:
        mean, most = rate.expected, rate.at_most
        found.append(("False alarms if all are trustworthy", _of(mean, summary.judged)))
        found.append((f"This detector’s own, at most ({100 * rate.confidence:g} %)", _of(most, summary.judged)))
    if summary.labelled:
        found.append(("Risk (errors among trusted), %", _risk(summary)))
    return found


def told(summary: Summary) -> list[str]:
    """The sentences below the counts."""
    return [sentences.alarms(summary), sentences.own_rate(summary), sentences.accuracy(summary)]


def mark(recounted: Recount | None, summary: Summary) -> tuple[float, float] | None:
    """Where the chart of risk has the file's alpha; None without one, or without labels."""
    places = [] if recounted is None else charts.risk_places(recounted, summary)
    return places[recounted.own] if recounted is not None and places else None


def payload(recounted: Recount, summary: Summary, kinds: Sequence[Share]) -> dict[str, Any]:
    """All that the page's script takes to show another alpha."""
    at = [recounted.at(summary, step) for step in range(recounted.offered)]
    own = recounted.own
    return {
        "own": own,
        "rows": summary.rows,
        "judged": summary.judged,
        "alphas": [f"{100 * alpha:.6g}" for alpha in recounted.alphas[: recounted.offered]],
        "flagged": recounted.flagged[: recounted.offered].tolist(),
        "headline": [sentences.headline(one) for one in at],
        "told": [told(one) for one in at],
        "facts": [[value for _, value in facts(one)] for one in at],
        "marks": charts.risk_places(recounted, summary)[: recounted.offered],
        "kinds": [
            [kind.judged, _sparse(counts[: recounted.offered])] if counts[own] == kind.flagged else None
            for kind, counts in zip(kinds, recounted.kinds, strict=True)
        ],
    }


def _sparse(counts: IntArray) -> list[int]:
    """Ascending counts as step, increase, step, increase, ..."""
    more = np.diff(counts, prepend=0)
    steps = np.flatnonzero(more)
    return np.stack([steps, more[steps]], 1).ravel().tolist()


def _risk(summary: Summary) -> str:
    known, wrong = summary.trusted_labelled, summary.trusted_labelled - summary.trusted_correct
    if not known:
        return NONE
    low, high = exact_interval(np.array([wrong]), np.array([known]))
    return interval((wrong / known, float(low[0]), float(high[0])))


def _of(share: float, count: int) -> str:
    return f"{percent(share)} % ({number(round(share * count))})"
