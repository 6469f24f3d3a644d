"""Detectors of shipped classifiers are exported whatever example the check is given, here with a few examples."""

from pathlib import Path

import pytest
import torch

from benchmarks import export
from benchmarks.shipped import Suite


@pytest.mark.data
@pytest.mark.skipif(not callable(torch.export.Dim.DYNAMIC), reason="this torch is too old to export")
@pytest.mark.parametrize("name", ["mnist", pytest.param("cifar10", marks=pytest.mark.rounding)])
def test_no_random_example_is_refused(gradgeo_data: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FEW", 80)
    monkeypatch.setattr(export, "BATCH", 16)
    (found,) = export.seeds(Suite(gradgeo_data, inputs=export.BATCH, only=(name,), most=200), 3)
    assert found.startswith(f"{name}: exported for 3 of 3 seeds")
