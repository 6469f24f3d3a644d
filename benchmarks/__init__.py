"""Long measurements on trained classifiers; each writes a page and its data under results/."""

from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    accuracy,
    adaptive,
    architectures,
    attacks,
    coverage,
    detection,
    engine,
    evasion,
    evidence,
    export,
    guarantee,
    local_minima,
    one_class,
    paper,
    reporting,
    scoring,
    serving,
    watch,
)
from benchmarks.page import Page
from gradgeo.bench.case import Cases

BENCHMARKS: dict[str, Callable[[Cases], Page]] = {
    "accuracy": accuracy.run,
    "adaptive": adaptive.run,
    "architectures": architectures.run,
    "attacks": attacks.run,
    "coverage": coverage.run,
    "detection": detection.run,
    "engine": engine.run,
    "evasion": evasion.run,
    "evidence": evidence.run,
    "export": export.run,
    "guarantee": guarantee.run,
    "local-minima": local_minima.run,
    "one-class": one_class.run,
    "paper": paper.run,
    "report": reporting.run,
    "scoring": scoring.run,
    "serving": serving.run,
    "watch": watch.run,
}
"""What `gradgeo bench NAME` runs, by name, beside the battery."""


def run(name: str, cases: Cases, out: Path, command: str) -> Path:
    """Run the benchmark `name`; returns the page written into `out`, which quotes the command."""
    return BENCHMARKS[name](cases).write(out, name, command)
