"""What the page of a report and the widgets of a notebook are made of: templates, and the modules of their script."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gradgeo.detector.results import SHOWN as STATISTICS
from gradgeo.errors import require
from gradgeo.report import charts, drift, gallery
from gradgeo.report import kinds as kinds_module
from gradgeo.report.html import environment
from gradgeo.report.summary import FIRST_ERRORS
from gradgeo.report.words import plain

TEMPLATES = Path(__file__).parent / "templates"

QUEUE = ("numbers", "download", "pictures", "decisions", "queue", "large")
"""Modules in js/ of the review queue and of pictures shown large, in a page and in a notebook alike. What one declares,
those behind it use; before them stands `root`, whose elements they are about, and `stored`, what keeps decisions."""

PAGE = ("numbers", "theme", "download", "pictures", "gallery", "slider", "large", "decisions", "queue", "likeness",
        "compare", "start")  # fmt: skip
"""All modules of a page."""


def script(modules: Sequence[str]) -> str:
    """The modules one after another."""
    return compact("\n".join((TEMPLATES / "js" / f"{name}.js").read_text(encoding="utf-8").strip() for name in modules))


def compact(text: str) -> str:
    """Without empty lines; the script too, whose hash the browser takes from the page."""
    return re.sub(r"\n\s*\n+", "\n", text)


def small(value: float) -> str:
    """A p-value or score to three digits."""
    return "–" if value != value else f"{value:.3g}"


def unbroken(text: str) -> str:
    """A sentence whose % signs stay with their numbers."""
    return text.replace(" %", "\u00a0%")


def templates() -> Any:
    """Jinja's environment. Raises: MissingDependencyError without Jinja."""
    return _environment(require("jinja2", "report"))


@cache
def _environment(jinja2: Any) -> Any:
    names = {
        "FIRST_ERRORS": FIRST_ERRORS,
        "LEVEL": drift.LEVEL,
        "LEVELS": gallery.LEVELS,
        "MOST": kinds_module.MOST,
        "SHOWN": kinds_module.SHOWN,
        "SIGNAL": gallery.SIGNAL,
        "SIZE": charts.SIZE,
        "STATISTICS": STATISTICS,
    }
    drawn = {name: getattr(charts, name) for name in ("scores", "p_values", "shares", "quartiles", "risk")}
    return environment(
        jinja2,
        TEMPLATES,
        filters={"small": small, "unbroken": unbroken, "plain": plain},
        names=names | {"chart": drawn},
        toggle=True,
    )
