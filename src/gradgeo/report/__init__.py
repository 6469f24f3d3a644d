"""One page about a file of verdicts, for people: a single HTML file that needs no network."""

from pathlib import Path
from typing import Any

import numpy as np

from gradgeo._files import atomic_stream, check_writable, refuse_source
from gradgeo.errors import expected, one_line, public, warn
from gradgeo.report.gallery import NAME, card, within
from gradgeo.report.kinds import classes_and_groups, listed
from gradgeo.report.page import Failure, render
from gradgeo.report.recount import recount
from gradgeo.report.summary import NO_REASON, Summary, summarise
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
    The page is smaller than 3 MB for any number of rows.

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
    shown = np.unique(np.concatenate([summary.outlying, summary.drawn]))
    largest = set(summary.outlying.tolist())
    rows = scores.take(shown)
    cards = [card(row, scores.metadata, largest=at in largest) for at, row in zip(shown.tolist(), rows, strict=True)]
    cards.sort(key=lambda entry: (-_or_least(entry.outlier_score), entry.index))
    failures = [_failure(row) for row in scores.take(np.array(summary.first_errors, np.int64))]
    kinds = classes_and_groups(summary)
    text = render(
        one_line(scores.path.resolve().name),
        summary,
        within(cards),
        failures,
        kinds=kinds,
        recounted=recount(scores, summary, listed(*kinds)),
        unfinished=scores.unfinished,
    )
    return text, summary


def _or_least(value: float) -> float:
    return -np.inf if np.isnan(value) else value


def _failure(row: dict[str, Any]) -> Failure:
    texts = [one_line(str(text))[:NAME] for text in (row["name"] or "", row["error"] or NO_REASON)]
    return Failure(-1 if row["index"] is None else int(row["index"]), *texts)
