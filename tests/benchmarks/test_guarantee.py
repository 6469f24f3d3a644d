"""False alarms are measured classifier by classifier, of the evidence that a detector takes; the page keeps the rows of
the others."""

import json
from pathlib import Path

import pytest

from benchmarks import guarantee
from benchmarks.evidence import EVERY, available
from benchmarks.shipped import Suite
from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import PRESETS


def _page(**rates: float) -> guarantee._Rates:
    rows = [
        guarantee._row(name, preset, 0, 0.05, [rate] * 200, 299, 300, "refitted")
        for name, rate in rates.items()
        for preset in ("full", "lite")
    ]
    return guarantee._Rates("Rates", data={"rows": rows})


def test_a_page_measured_in_parts_keeps_the_others(tmp_path: Path) -> None:
    _page(digits=0.05, cifar10=0.07).write(tmp_path, "rates", "first")
    file = _page(mnist=0.05, cifar10=0.051).write(tmp_path, "rates", "second")
    rows = json.loads(file.with_suffix(".json").read_text())["rows"]
    assert [(row["data"], row["evidence"], row["rate"], row["made"]["command"]) for row in rows] == [
        ("cifar10", "full", pytest.approx(0.051), "second"),
        ("cifar10", "lite", pytest.approx(0.051), "second"),
        ("mnist", "full", pytest.approx(0.05), "second"),
        ("mnist", "lite", pytest.approx(0.05), "second"),
        ("digits", "full", pytest.approx(0.05), "first"),
        ("digits", "lite", pytest.approx(0.05), "first"),
    ]
    lines = [line.split(" | ") for line in file.read_text().splitlines() if " | refitted | " in line]
    assert [line[0][2:] for line in lines] == [row["data"] for row in rows]
    assert {(line[4], line[5], line[8]) for line in lines} == {("299", "300", "yes")}


def test_a_rate_outside_its_interval_is_said_so() -> None:
    of = ("cifar10", "full", 0, 0.05)
    assert guarantee._row(*of, [0.05] * 200, 299, 300, "refitted")["inside"]
    assert not guarantee._row(*of, [0.07] * 200, 299, 300, "refitted")["inside"]


def test_what_is_measured_is_what_a_detector_takes() -> None:
    digits = Suite(Path())["digits"]
    every = available(digits, EVERY)
    for preset, names in PRESETS.items():
        detector = Detector(digits.model, evidence=preset).fit(digits.x[:120])
        assert [name for name in names if name in every] == list(detector.evidence_), preset
