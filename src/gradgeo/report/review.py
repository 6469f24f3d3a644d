"""The inputs that a person is asked to look at, with the record of how they were drawn: what the page's queue shows."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gradgeo.errors import one_line
from gradgeo.report.gallery import Card
from gradgeo.report.summary import REVIEWED, Summary
from gradgeo.report.words import plain
from gradgeo.scoring.decisions import FORMAT

SHARE = 0.5
"""Of trusted inputs among those that are shown."""

LEAST_TRUSTED = 50
"""Trusted inputs that are shown, of as many as there are, however few are flagged."""

TEXTS, PICTURES = 500_000, 700_000
"""Characters that the texts and the pictures of all items may take."""

NAMED = 120
"""Characters of a name that are shown."""

SIGNIFICANT = 3
"""Kinds of significant evidence that an item shows at most."""


@dataclass(frozen=True)
class Subject:
    """The verdicts that a queue is about."""

    name: str
    """What they are verdicts of, for people."""
    detector: str
    """`Detector.digest()`."""
    flagged: int
    trusted: int
    stated: tuple[Any, ...] = ()
    """What tells these verdicts from others of the same detector, as JSON values."""


def subject(summary: Summary) -> Subject:
    """Of a file of verdicts."""
    metadata = summary.metadata
    stated = (metadata.data, metadata.run, summary.rows)
    detector = metadata.detector or ""
    return Subject(metadata.data or "verdicts", detector, summary.flagged, summary.trusted, stated)


def drawn(summary: Summary) -> dict[bool, list[int]]:
    """Positions of the flagged and of the trusted rows that are shown, in the order of the draw.

    None where the file names no detector that decisions could be fed back to.
    """
    if not summary.reviewed or not re.fullmatch("[0-9a-f]{64}", summary.metadata.detector or ""):
        return {}
    return mixed({kind: positions.tolist() for kind, positions in summary.reviewed.items()})


def mixed(positions: Mapping[bool, list[int]]) -> dict[bool, list[int]]:
    """Of the flagged (False) and the trusted, in the order of the draw, those that are shown."""
    flagged, trusted = (positions[kind][:REVIEWED] for kind in (False, True))
    return {False: flagged, True: trusted[: max(LEAST_TRUSTED, round(len(flagged) * SHARE / (1 - SHARE)))]}


def payload(about: Subject, cards: Mapping[bool, list[Card]], on_page: Iterable[Card] = ()) -> dict[str, Any] | None:
    """All that a queue takes.

    Args:
        about: what it is about.
        cards: the flagged and the trusted ones, in the order of the draw.
        on_page: cards whose pictures the page has already.
    """
    if not cards or not any(cards.values()):
        return None
    there = {card.index: card for card in on_page}
    items = [_item(card, kind, card.index in there) for card, kind in _mixed(cards)]
    while sum(len(json.dumps(item)) for item in items) > TEXTS:  # a shorter beginning of the draw is a draw too
        cards = {kind: some[: -(-len(some) // 2)] for kind, some in cards.items()}
        items = [_item(card, kind, card.index in there) for card, kind in _mixed(cards)]
    budget = PICTURES
    for item, (card, _) in zip(items, _mixed(cards), strict=True):
        pictures = {} if card.index in there else _pictures(card)
        budget -= sum(map(len, pictures.values()))
        item |= pictures if budget >= 0 else {}
    populations = {False: about.flagged, True: about.trusted}
    return {
        "format": FORMAT,
        "report": report_id(about, cards),
        "detector": about.detector,
        "sampling": {
            name: {"population": populations[kind], "shown": len(cards[kind])}
            for name, kind in (("flagged", False), ("trusted", True))
        }
        | {"seed": 0, "share": SHARE},
        "items": items,
    }


def report_id(about: Subject, cards: Mapping[bool, list[Card]]) -> str:
    """Names the report: the same of the same verdicts, whenever and by whomever it is made."""
    seen = [(card.index, card.name, f"{card.p_value:.9g}") for some in cards.values() for card in some]
    stated = [about.detector, *about.stated, about.trusted]
    digest = hashlib.sha256(json.dumps([stated, seen]).encode()).hexdigest()[:32]
    return f"{one_line(about.name)[:60]} {digest}"


def _mixed(cards: Mapping[bool, list[Card]]) -> list[tuple[Card, bool]]:
    """Both kinds, evenly mixed, each in the order of its draw."""
    places = [((i + 0.5) / len(some), kind, card) for kind, some in cards.items() for i, card in enumerate(some)]
    return [(card, kind) for _, kind, card in sorted(places, key=lambda place: place[:2])]


def _item(card: Card, trusted: bool, on_page: bool) -> dict[str, Any]:
    item: dict[str, Any] = {
        "i": card.index,
        "n": card.name[:NAMED],
        "l": card.label_name,
        "p": float(f"{card.p_value:.9g}"),
        "q": _rounded(card.probability),
    }
    if trusted:
        item["t"] = 1
    if on_page:
        item["on"] = 1
    if card.cause:
        item["c"] = card.cause[:NAMED]
    if card.time:
        item["w"] = card.time
    if not trusted and card.evidence:
        significant = [entry for entry in card.evidence if entry[0] in card.significant] or card.evidence[:1]
        item["e"] = [[plain(name), _rounded(value)] for name, value in significant[:SIGNIFICANT]]
    return item


def _pictures(card: Card) -> dict[str, str]:
    found = {"pic": card.thumbnail, "sig": card.signal, "sal": card.saliency, "csm": card.csm_levels}
    return {name: value for name, value in found.items() if value}


def _rounded(value: float) -> float | None:
    return None if value != value else float(f"{value:.3g}")
