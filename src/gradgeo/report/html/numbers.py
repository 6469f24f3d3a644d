"""Numbers as pages show them."""

import math
from collections.abc import Callable, Sequence

NONE = "–"
"""What stands for a number that there is not."""


def percent(value: float | None) -> str:
    """A share in % with one decimal."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    if value is None:
        return NONE
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval(estimate: Sequence[float]) -> str:
    """Value, low and high in %, as `metrics.Estimate` prints them."""
    value, low, high = map(percent, estimate)
    return f"{value} [{low}, {high}]"


def number(value: int | None) -> str:
    """A count."""
    return NONE if value is None else f"{value:,}"


def p_value(value: float | None) -> str:
    """To three decimals."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


FILTERS: dict[str, Callable[..., str]] = {
    "percent": percent,
    "points": points,
    "interval": interval,
    "number": number,
    "p": p_value,
}
"""The names that templates have for them."""
