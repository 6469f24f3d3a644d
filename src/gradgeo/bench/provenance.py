"""What a result must carry to be repeated: command, seed, date, versions, revision, machine and processor."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

PACKAGES = {name: name for name in ("gradgeo", "torch", "numpy")} | {
    "scikit-learn": "sklearn",
    "pytorch-ood": "pytorch_ood",
}
"""Distributions whose version is recorded where they are installed, and the module of each."""

CPU_INFO = Path("/proc/cpuinfo")

INTEGER_UNITS = {"VNNI": r"avx512_?vnni|avx_?vnni", "AMX": r"amx_(?:int8|bf16|tile)"}
"""Units that decide how quick integer and bfloat16 products are, and the processor flags that tell of them."""


def provenance(command: str) -> dict[str, Any]:
    """How, when, with what and where a result was computed, ready for JSON."""
    return {
        "command": command,
        "seed": 0,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name, module in PACKAGES.items() if find_spec(module)},
        "revision": _revision(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}",
        "processor": processor(),
    }


def processor() -> str:
    """The CPU, the instruction set that PyTorch's kernels use on it, and which of `INTEGER_UNITS` it has.

    The instruction set is the one in use: `ATEN_CPU_CAPABILITY` may name a lower one than the CPU has. oneDNN's and
    MKL's limits are read from their own variables and named where they are set.
    """
    text = CPU_INFO.read_text() if CPU_INFO.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.M)
    units = [unit for unit, flag in INTEGER_UNITS.items() if flags and re.search(rf"\b(?:{flag})\b", flags[1])]
    limits = [os.environ[name] for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS") if name in os.environ]
    parts = [
        model[1] if model else platform.processor() or platform.machine(),
        f"{torch.backends.cpu.get_cpu_capability()} kernels",
        f"with {', '.join(units)}" if units else "without VNNI or AMX",
        *([f"libraries limited to {' and '.join(dict.fromkeys(limits))}"] if limits else []),
    ]
    return ", ".join(parts)


def _revision() -> str | None:
    """The git commit of the source, with a + where it has changes since; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
