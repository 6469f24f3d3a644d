"""Long measurements on trained classifiers; each writes a page and its data under results/."""

from collections.abc import Callable
from pathlib import Path

from gradgeo.benchmark import accuracy, adaptive, detection, guarantee, local_minima, one_class
from gradgeo.benchmark.cases import Cases
from gradgeo.benchmark.page import Page

BENCHMARKS: dict[str, Callable[[Cases], Page]] = {
    "accuracy": accuracy.run,
    "adaptive": adaptive.run,
    "detection": detection.run,
    "guarantee": guarantee.run,
    "local-minima": local_minima.run,
    "one-class": one_class.run,
}
"""What `gradgeo bench NAME` runs, by name."""


def run(name: str, folder: Path, out: Path) -> Path:
    """Run the benchmark `name` on the models and data in `folder`; returns the page written into `out`."""
    return BENCHMARKS[name](Cases(folder)).write(out, name)
