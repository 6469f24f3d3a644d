"""Long measurements on trained classifiers; each writes a page and its data under results/."""

from collections.abc import Callable
from pathlib import Path

from gradgeo.benchmark import (
    accuracy,
    adaptive,
    architectures,
    coverage,
    detection,
    engine,
    evasion,
    evidence,
    exporting,
    guarantee,
    local_minima,
    one_class,
    paper,
    reporting,
    scoring,
    serving,
    strength,
    watching,
)
from gradgeo.benchmark.cases import Cases
from gradgeo.benchmark.page import Page

BENCHMARKS: dict[str, Callable[[Cases], Page]] = {
    "accuracy": accuracy.run,
    "adaptive": adaptive.run,
    "architectures": architectures.run,
    "attacks": strength.run,
    "coverage": coverage.run,
    "detection": detection.run,
    "engine": engine.run,
    "evasion": evasion.run,
    "evidence": evidence.run,
    "export": exporting.run,
    "guarantee": guarantee.run,
    "local-minima": local_minima.run,
    "one-class": one_class.run,
    "paper": paper.run,
    "report": reporting.run,
    "scoring": scoring.run,
    "serving": serving.run,
    "watch": watching.run,
}
"""What `gradgeo bench NAME` runs, by name, beside the battery."""


def run(name: str, cases: Cases, out: Path, command: str) -> Path:
    """Run the benchmark `name`; returns the page written into `out`, which quotes the command."""
    return BENCHMARKS[name](cases).write(out, name, command)
