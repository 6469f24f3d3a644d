"""The measurement of the report, on few rows: one process each, its figures those of the page that was written."""

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")

from benchmarks import report as reporting
from benchmarks.shipped import Suite


@pytest.mark.simulation
def test_each_length_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "LENGTHS", (1000, 50_000))
    monkeypatch.setattr(reporting, "PICTURES", 20)
    page = reporting.run(Suite(tmp_path, inputs=20))
    assert list(page.data["rows"]) == [20, 1000]
    for found in page.data["rows"].values():
        assert 0 < found["seconds"] < 60
        assert 10_000 < found["bytes"] < 3e6
        assert 0 < found["mib_before"] <= found["mib_after"]
