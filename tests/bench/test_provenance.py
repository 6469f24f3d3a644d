"""A result says what it was computed with and on which processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradgeo.bench import provenance
from gradgeo.bench.provenance import processor


def test_what_a_result_carries() -> None:
    made = provenance.provenance("gradgeo bench --quick")
    assert made["command"] == "gradgeo bench --quick"
    assert made["versions"]["torch"] == torch.__version__.partition("+")[0] or made["versions"]["torch"]
    assert set(made) == {"command", "seed", "date", "versions", "revision", "hardware", "processor"}
    assert f"{torch.backends.cpu.get_cpu_capability()} kernels" in made["processor"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("fpu sse4_2 avx2", "Some CPU, {kernels} kernels, without VNNI or AMX"),
        ("avx2 avx512f avx512_vnni", "Some CPU, {kernels} kernels, with VNNI"),
        ("avx2 avx_vnni", "Some CPU, {kernels} kernels, with VNNI"),
        ("avx512f avx512_vnni amx_bf16 amx_tile amx_int8", "Some CPU, {kernels} kernels, with VNNI, AMX"),
    ],
)
def test_units_are_told_by_their_flags(flags: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n")
    monkeypatch.setattr(provenance, "CPU_INFO", tmp_path / "cpuinfo")
    assert processor() == says.format(kernels=torch.backends.cpu.get_cpu_capability())


@pytest.mark.process
def test_limits_of_the_instruction_set_are_told() -> None:
    limits = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    code = "from gradgeo.bench.provenance import processor; print(processor())"
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | limits, capture_output=True, text=True, check=True
    )
    assert "DEFAULT kernels" in run.stdout or "NO AVX kernels" in run.stdout
    assert run.stdout.strip().endswith("libraries limited to SSE41 and SSE4_2")
