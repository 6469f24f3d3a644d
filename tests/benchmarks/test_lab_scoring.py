"""The measurement of scoring, on few inputs: its figures are right, its data is what it says."""

from pathlib import Path

import pytest

from benchmarks import scoring
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.data import open_source


@pytest.mark.simulation
def test_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "FIT", 250)
    monkeypatch.setattr(scoring, "EVIDENCE", ("fast",))
    monkeypatch.setattr(scoring, "LENGTHS", (1000, 2000))
    monkeypatch.setattr(scoring, "KINDS", {"npy": scoring.KINDS["npy"]})
    monkeypatch.setattr(scoring, "_peak", lambda data, out: (100.0, 100.0 + len(open_source(data))))
    monkeypatch.setattr(scoring, "find_spec", lambda name: None)  # Ray has its own test
    page = scoring.run(Suite(tmp_path, inputs=20, only=("digits",)))
    found = page.data["throughput"]["digits fast"]
    assert found["inputs"] == 20
    assert 0 < found["utilisation"] < 1
    assert found["per_second"] > 0
    assert found["bytes_a_row"] > 50
    assert page.data["memory"]["npy"] == {"before": 100, 20: 120, 40: 140}
    assert any("| npy | 100 | 120 | 140 | +16.7% |" in block for block in page.blocks)
    hours = scoring.TARGET / page.data["throughput"]["digits fast"]["per_second"] / 3600
    assert f"| digits fast | {hours:,.0f} |" in page.blocks[-1]
    text = page.write(tmp_path, "scoring", "python -m benchmarks scoring").read_text()
    assert text.startswith("# Scoring at any size\n")


@pytest.mark.simulation
@pytest.mark.grid
@pytest.mark.parametrize("kind", scoring.KINDS)
def test_data_that_memory_is_measured_on(tmp_path: Path, kind: str) -> None:
    items = list(open_source(scoring.KINDS[kind](tmp_path / "data", 1005)))
    assert [item.index for item in items] == list(range(1005))
    expected = list(scoring._images(1005))
    for i in (0, 1, 1004):
        assert (items[i].x[0] * 255).round().tolist() == expected[i].tolist()


@pytest.mark.process
def test_peak_of_a_process_of_its_own(tmp_path: Path) -> None:
    before, peak = scoring._peak(scoring.KINDS["npy"](tmp_path / "data", 300), tmp_path / "out")
    assert 50 < before <= peak < 5000
    assert (tmp_path / "out" / "part-00000.parquet").exists()


@pytest.mark.process
def test_ray_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers open is the case's own data and detector; the engine's own test runs it on Ray."""
    monkeypatch.setattr(scoring, "RayEngine", lambda opened, jobs: scoring_here(opened))
    suite = Suite(tmp_path, inputs=20)
    classifier = suite["digits"]
    detector = scoring.Detector(classifier.model, evidence=["confidence"]).fit(classifier.x[:200])
    found = scoring._on_ray(detector, suite, classifier, suite.source("digits", limit=20), 1.0, tmp_path / "out")
    assert found["ray"] > 0
    assert found["ray_started"] >= found["ray"]


def scoring_here(opened: scoring.Opened) -> object:
    detector, source = opened()
    assert (len(source), detector.evidence) == (20, ["confidence"])
    from gradgeo.scoring import local

    return local


def test_page_has_a_table_for_each_question(tmp_path: Path) -> None:
    page = Page("x", data={"throughput": {"a": {"per_second": 1e6 / 3.6, "bytes_a_row": 100}}})
    scoring._toward(page)
    assert page.blocks[-1].splitlines()[-1] == "| a | 1 | 0 | 0 | 1 | 0.10 |"
