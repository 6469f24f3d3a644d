"""The page and the words of a check of stated rates on the data of one site."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gradgeo.errors import one_line, require
from gradgeo.report.html import environment
from gradgeo.scoring.site_check import RateCheck, SiteCheck, in_words

TEMPLATES = Path(__file__).parent / "templates"

SHOWN = 200
"""Rates in the table of a page: the overall one, then those with the smallest p-values."""

COMPARED = {
    "own": "{n} calibration inputs of its own",
    "all": "all {n}, too few of its own: not tested",
    "unseen": "all {n}, fit saw none of it: not tested",
}


def html(check: SiteCheck, *, name: str, made: Mapping[str, str]) -> str:
    """The answer of `gradgeo.check` on one HTML page that loads nothing.

    Args:
        check: the answer.
        name: of the data.
        made: what else is known of the run: file, date, command.
    """
    first, *others = check.rates
    ranked = sorted(others, key=lambda rate: 2.0 if rate.p is None else rate.p)[: SHOWN - 1]
    provenance = {**made, "detector": check.detector[:16], "alpha": f"{check.alpha:g}", "level": f"{check.level:g}"}
    return str(
        _template(require("jinja2", "report")).render(
            title=f"gradgeo check: {one_line(name)}",
            heading=one_line(name),
            check=check,
            answer=answer(check),
            notes=notes(check),
            shown=[first, *(rate for rate in others if rate in ranked)],
            provenance=[(key, one_line(value)) for key, value in provenance.items()],
            named=named,
            compared=compared,
        )
    )


def answer(check: SiteCheck) -> str:
    """What is found, in a sentence or two."""
    whole = check.rates[0]
    if check.exceeded:
        worst = ", ".join(named(rate) for rate in check.exceeded[:5])
        more = f" and {len(check.exceeded) - 5} more" if len(check.exceeded) > 5 else ""
        return (
            f"The stated false-alarm rate does not hold here: it is exceeded for {worst}{more}. "
            f"Overall, {in_words(whole)}."
        )
    if check.verdict == "too few inputs":
        return (
            f"Too few inputs to tell: a rate of {100 * check.must_see:.3g} % would not have been found. {whole.judged} "
            f"were judged, {whole.flagged} flagged."
        )
    return f"Nothing speaks against the stated false-alarm rate here: {in_words(whole)}."


def notes(check: SiteCheck) -> list[str]:
    """What the reader has to know of the inputs that count."""
    left_out = {"unusable": check.unusable, "misclassified": check.misclassified, "copies of others": check.copies}
    counts = ", ".join(f"{count:,} {what}" for what, count in left_out.items() if count)
    told = [f"Of {check.inputs:,} inputs {check.rates[0].judged:,} count{f'; left out: {counts}' if counts else ''}."]
    if not check.labelled:
        told.append(
            "No labels were used: all inputs are taken to be trustworthy, so mistakes of the classifier count as false "
            "alarms. With labels only right predictions do."
        )
    if check.undecided:
        told.append(
            f"{check.undecided:,} inputs that were shown were left undecided; they are taken to be as the others."
        )
    unseen = sum(rate.compared == "unseen" for rate in check.rates)
    if unseen:
        told.append(
            f"{unseen} of the groups here are none of those that the detector was fitted with: what it states is its "
            "rate over all inputs, not theirs. Recalibrate on their data for rates of their own."
        )
    told.append("That nothing is found is no proof that rates hold; the column “would see” says what would be found.")
    return told


def named(rate: RateCheck) -> str:
    """What the inputs of a rate are called."""
    return "all inputs" if rate.by == "all" else f"{rate.by} {one_line(rate.name)[:80]}"


def compared(rate: RateCheck) -> str:
    """With which calibration inputs its p-values compare."""
    words = "all {n} calibration inputs" if rate.by == "all" else COMPARED[rate.compared]
    return words.format(n=f"{rate.stated.calibration_size:,}")


@cache
def _template(jinja2: Any) -> Any:
    return environment(jinja2, TEMPLATES, filters={}, names={}).get_template("check.html.j2")
