"""What a page says of itself, for another page that a reader compares it with."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradgeo.errors import one_line
from gradgeo.report.gallery import NAME
from gradgeo.report.kinds import MOST, SHOWN, Share
from gradgeo.report.summary import Summary

FORMAT = "gradgeo.report/1"


def payload(
    heading: str, summary: Summary, classes: Sequence[Share], groups: Mapping[str, Sequence[Share]]
) -> dict[str, Any]:
    """Counts that the page shows, by the names that stand beside them; each a count and of how many."""
    causes = [(cause and one_line(cause)[:NAME], count) for cause, count in summary.causes.most_common(SHOWN)]
    kinds = {"": classes[:MOST], **{column: entries[:SHOWN] for column, entries in groups.items()}}
    return {
        "format": FORMAT,
        "name": heading,
        "detector": summary.metadata.detector,
        "alpha": summary.metadata.alpha,
        "flagged": [summary.flagged, summary.judged],
        "causes": [[cause or "not named", count, summary.judged] for cause, count in causes],
        "kinds": [
            [column, entry.name, entry.flagged, entry.judged] for column, some in kinds.items() for entry in some
        ],
    }
