"""`gradgeo certify`: the library's certificates, one line an input, and what cannot be certified is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradgeo import Detector
from gradgeo.certificate import certify, largest_radius
from gradgeo.data import open_source
from gradgeo.data.models import load_model
from gradgeo.detector.noise import repeatable
from helpers.commands import run

FEW = ("--draws", 60, "--pilot", 10, "--confidence", "99%")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the digits' classifier, with noise."""
    file = tmp_path_factory.mktemp("noisy") / "d.gradgeo"
    fitted = run(
        *("fit", "-m", "digits", "-d", "digits/fit", "-o", file, "--limit", 200),
        *("--evidence", "confidence", "--noise", 0.1),
    )
    assert fitted[0] == 0
    return file


@pytest.mark.journey
def test_it_says_what_the_library_says(file: Path) -> None:
    arguments = ("certify", file, "-d", "digits/test", "--limit", 4, *FEW, "--radius", 0.05)
    with repeatable(0):
        code, text, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    told = json.loads(text)
    detector = Detector.load(file, load_model("digits"))
    x = torch.stack([item.x for item in open_source("digits/test", limit=4)])
    with repeatable(0):
        found = [certify(detector, each[None], draws=60, pilot=10, confidence=0.99, radius=0.05) for each in x]
    assert [row["label"] for row in told["inputs"]] == [int(each.label) for each in found]
    assert [row["radius"] for row in told["inputs"]] == pytest.approx([float(each.radius) for each in found])
    assert [row["trusted"] for row in told["inputs"]] == [bool(each.trusted) for each in found]
    assert told["largest_radius"] == pytest.approx(largest_radius(noise=0.1, draws=60, confidence=0.99))
    assert (told["noise"], told["draws"], told["confidence"]) == (0.1, 60, 0.99)

    with repeatable(0):
        code, text, err = run(*arguments)
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0].split() == ["answer", "radius", "share", "item"]
    trusted = sum(row["trusted"] for row in told["inputs"])
    assert sum(bool(re.match(r"class \d, trusted ", line)) for line in lines) == trusted
    assert f"trusted within 0.05  {trusted / 4:.1%} ({trusted} of 4)" in text
    assert "as all of 60 draws agree" in text


def test_items_by_name_and_such_as_cannot_be_judged(file: Path, tmp_path: Path) -> None:
    x = np.zeros((2, 1, 8, 8), np.float32)
    x[1] = np.nan
    np.save(tmp_path / "x.npy", x)
    code, text, err = run("certify", file, "-d", tmp_path / "x.npy", *FEW, "--json")
    assert code == 0
    assert "cannot be judged" in err
    (zeros, broken) = json.loads(text)["inputs"]
    assert zeros["error"] is None
    assert "NaN" in broken["error"]
    assert "label" not in broken
    code, _, err = run("certify", file, "-d", tmp_path / "x.npy", *FEW, "-i", 1)
    assert code == 1
    assert "none of the inputs can be judged" in err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--draws", 3), "expected draws to be more than 10 for confidence=0.999, got 3"),
        (("--radius", 100), "expected draws to be more than can be drawn"),
        (("--radius", -1), "expected radius to be a number, 0 or more"),
        (("--confidence", "100%"), "expected confidence to be a number between 0 and 1"),
        (("--pilot", 0), "expected pilot to be"),
    ],
)
def test_what_cannot_be_certified_is_refused_before_any_work(file: Path, option: Any, message: str) -> None:
    code, text, err = run("certify", file, "-d", "digits/test", *option)
    assert (code, text) == (1, "")
    assert message in err


def test_a_detector_without_noise_is_refused(file: Path, tmp_path: Path) -> None:
    plain = Detector(load_model("digits"), evidence=["confidence"]).fit(torch.rand(60, 1, 8, 8))
    plain.save(tmp_path / "plain.gradgeo", notes={"model": "digits"})
    code, _, err = run("certify", tmp_path / "plain.gradgeo", "-d", "digits/test")
    assert code == 1
    assert "expected a detector fitted with noise" in err


def test_what_was_done_before_an_interruption_is_printed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = certify, 0

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 2:  # the first has no inputs
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr("gradgeo.certificate.certify", interrupted)
    code, text, err = run("certify", file, "-d", "digits/test", *FEW, "--json")
    assert code == 130
    assert len(json.loads(text)["inputs"]) == 1
    assert "interrupted" in err
