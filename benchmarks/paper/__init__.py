"""The paper's tables on the paper's terms, its cells beside ours, and a waterfall from our set-up to the authors'.

Of photographs, 250 inputs a cell: two CPU hours.
"""

from collections.abc import Iterable

from benchmarks.page import Page
from benchmarks.paper import adaptive, maps, tables, why
from benchmarks.paper.causes import CAUSES
from benchmarks.paper.measured import Measured
from benchmarks.paper.setups import SETUPS, Case
from benchmarks.shipped import Suite

PHOTOGRAPHS = ("resnet56", "resnet20", "cifar100")
"""The set-ups of photographs. Those of digits and signals are on a page of their own, `benchmarks/paper_small.py`."""

PARTS = {
    "grid": tables.grid,
    "waterfall": tables.waterfall,
    "adaptive": adaptive.table,
    "maps": maps.table,
    "line": why.line,
    "why": why.means,
}
"""What is measured of each set-up besides Table 1, by name."""


def run(suite: Suite) -> Page:
    """The page of photographs."""
    return page_of(suite, "The paper's tables, on the paper's terms", PHOTOGRAPHS)


def page_of(suite: Suite, title: str, setups_here: tuple[str, ...]) -> Page:
    """A page. `--cases` takes set-ups, causes and parts by name; of a kind without one all, or `setups_here`."""
    page = Page(title)
    setups = _named(suite, SETUPS) or list(setups_here)
    causes, parts = (_named(suite, names) or list(names) for names in (CAUSES, PARTS))
    page.say(tables.terms(suite))
    measured = [Measured(Case(SETUPS[name], suite), tuple(causes)) for name in setups]
    tables.headline(page, measured)
    for each in measured:
        page.say(f"## {each.case.setup.words}")
        tables.first(page, each)
        for name in parts:
            PARTS[name](page, each)
    page.say("## What is missing")
    page.say(_missing([name for name in setups_here if name not in setups], causes, parts, measured))
    return page


def _named(suite: Suite, names: Iterable[str]) -> list[str]:
    """Those that are named; none where everything is measured."""
    return [] if suite.only is None else suite.wanted(names)


def _missing(left_out: list[str], causes: list[str], parts: list[str], measured: list[Measured]) -> str:
    """What of the paper this run did not measure."""
    left = {
        "set-ups": [SETUPS[name].words for name in left_out],
        "causes": [cause for cause in CAUSES if cause not in causes],
        "parts": [part for part in PARTS if part not in parts],
        "cells of fewer than 250 inputs": [
            f"{each.case.setup.name}: {cause} ({len(each.by_cause[cause].label)})"
            for each in measured
            for cause in each.by_cause
            if cause != "trusted" and len(each.by_cause[cause].label) < 250
        ],
    }
    said = [f"{kind}: {'; '.join(names)}" for kind, names in left.items() if names]
    always = (
        "the ECG set NonInvasiveFetalECGThorax1, PreResNet-164 and 60,000 digits to train on, for want of data and "
        "weights"
    )
    return f"Of the paper: {always}. " + (f"Of this run: {'. '.join(said)}." if said else "")
