"""One page about a file of verdicts, for people: a single HTML file that needs no network."""

from pathlib import Path
from typing import Any

import numpy as np

from gradgeo._files import atomic_stream, check_writable, refuse_source
from gradgeo._typing import IntArray
from gradgeo.errors import expected, one_line, public, warn
from gradgeo.report import review
from gradgeo.report.gallery import NAME, Card, card, within
from gradgeo.report.kinds import classes_and_groups, listed
from gradgeo.report.page import Failure, render
from gradgeo.report.recount import recount
from gradgeo.report.summary import NO_REASON, Summary, summarise
from gradgeo.report.trend import Window, drift_at, time_text, windows
from gradgeo.scoring.reader import Scores

__all__ = ["Summary", "html", "write"]


@public
def html(scores: str | Path) -> str:
    """The report of a file of verdicts as one HTML page: light and dark, readable on a phone, no network.

    It tells how many inputs were trusted and why the others were not, how outlier scores and p-values lie against
    those of the calibration inputs, whether they drift, which classes are flagged most, and shows flagged inputs. The
    same file gives the same bytes with the same versions of matplotlib and Jinja.

    Args:
        scores: what `gradgeo score` wrote: a .parquet or .csv file, or a folder of part-*.parquet. It is not trusted:
            texts are escaped, pictures checked, and nothing in it is executed.

    Cost: four passes over the rows, a few seconds for a million (results/report.md); memory does not grow with them.
    The page is smaller than 3.5 MB for any number of rows.

    Raises:
        ArgumentError: another ending. DataError: a missing or damaged file, one of another version, or no verdicts.
        MissingDependencyError: without what the extra `report` brings.
    """
    return _page(Scores(scores))[0]


@public
def write(scores: str | Path, out: str | Path) -> Summary:
    """Write the report of `html` to the file `out`, whole or not at all, and return its counts.

    Example:
        >>> write("verdicts.parquet", "report.html").flagged  # doctest: +SKIP
        17

    Raises:
        ArgumentError: `out` does not end in .html. DataError: it cannot be written; and as `html` does.
    """
    out = Path(out).expanduser()
    if out.suffix not in (".html", ".htm"):
        raise expected("out", "a file ending in .html", str(out))
    refuse_source(out, scores)
    check_writable(out)  # before the work
    text, summary = _page(Scores(scores))
    with atomic_stream(out) as stream:
        stream.write(text.encode())
    return summary


def _page(scores: Scores) -> tuple[str, Summary]:
    if scores.unfinished:
        warn(f"the run that writes {scores.path} has not ended: the page shows the rows so far.")
    summary = summarise(scores)
    drawn, found = review.drawn(summary), windows(summary)
    shown = np.unique(np.concatenate([summary.outlying, summary.drawn]))
    by_position = _cards(
        scores, summary, found, np.unique([*shown.tolist(), *(at for some in drawn.values() for at in some)])
    )
    cards = sorted((by_position[at] for at in shown.tolist()), key=lambda e: (-_or_least(e.outlier_score), e.index))
    cards = within(cards)
    failures = [_failure(row) for row in scores.take(np.array(summary.first_errors, np.int64))]
    kinds = classes_and_groups(summary)
    text = render(
        one_line(scores.path.resolve().name),
        summary,
        cards,
        failures,
        found,
        kinds=kinds,
        recounted=recount(scores, summary, listed(*kinds)),
        queue=review.payload(
            review.subject(summary), {kind: [by_position[at] for at in some] for kind, some in drawn.items()}, cards
        ),
        unfinished=scores.unfinished,
    )
    return text, summary


def _cards(scores: Scores, summary: Summary, found: list[Window], positions: IntArray) -> dict[int, Card]:
    """By ascending position, the rows that are shown."""
    largest, by = set(summary.outlying.tolist()), scores.ordered_by
    cards = {}
    for at, row in zip(positions.tolist(), scores.take(positions.astype(np.int64)), strict=True):
        when = row["index"] if by == "index" else row.get("time")
        told = "" if by == "index" or when is None or when != when else time_text(when, by)
        drift = drift_at(summary, found, when)
        cards[at] = card(row, scores.metadata, largest=at in largest, time=told, drift=drift)
    return cards


def _or_least(value: float) -> float:
    return -np.inf if np.isnan(value) else value


def _failure(row: dict[str, Any]) -> Failure:
    texts = [one_line(str(text))[:NAME] for text in (row["name"] or "", row["error"] or NO_REASON)]
    return Failure(-1 if row["index"] is None else int(row["index"]), *texts)
