"""The measurement of what matrices cost, in part."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import engine
from benchmarks.shipped import Suite


@pytest.mark.data
def test_it_runs_in_part(gradgeo_data: Path, tmp_path: Path) -> None:
    page = engine.run(Suite(gradgeo_data, inputs=20)).write(tmp_path, "engine", "python -m benchmarks engine")
    assert "| 1-D CNN, C 5, N 1 | 5 | 5 |" in page.read_text()
    found = json.loads((tmp_path / "engine.json").read_text())
    assert set(found["against"]["C"]["10"]) == {"all", "top 5", "(b)"}
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        assert "AVX2 kernels" in found["avx2"]["processor"]
        for part in ("cases", "products", "strategies"):
            assert set(found["avx2"][part]) == set(found[part]), part
        assert "## With AVX2 kernels" in page.read_text()
    else:
        assert "there are no AVX-512 figures" in page.read_text()
    (row,) = found["memory"]
    assert 0 < row["share"] <= 1.15
    assert (tmp_path / "engine.png").read_bytes()[1:4] == b"PNG"
