"""The same measurement by the kernels of a processor without AVX-512, beside those of this one.

PyTorch, oneDNN and MKL choose their kernels when they are loaded; so the other ones run in a process of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.bench.provenance import processor
from gradgeo.report.html.numbers import NONE

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""What makes the libraries dispatch to AVX2."""


def beside_avx2(page: Page, suite: Suite) -> None:
    """Add to `page` its small rows measured with AVX2 kernels, beside those of this processor if it has AVX-512."""
    native = torch.backends.cpu.get_cpu_capability()
    if not native.startswith("AVX512"):
        page.say(f"This processor runs {native} kernels: there are no AVX-512 figures to compare with.")
        return
    code = f"from {__name__} import child; child()"
    command = [sys.executable, "-c", code, str(suite.folder), str(suite.inputs)]
    done = subprocess.run(command, env=os.environ | AVX2, stdout=subprocess.PIPE, text=True, check=True)
    found = page.data["avx2"] = json.loads(done.stdout.splitlines()[-1])
    page.say("## With AVX2 kernels")
    page.say(
        f"The same code on the same machine, dispatched to AVX2 ({found['processor']}), in a process of its own and a "
        f"few minutes later; beside it the figures from above ({native}). A real processor without AVX-512 has another "
        "clock and other caches: read the ratios, not the milliseconds."
    )
    columns = [
        f"{figure}, {level}" for figure in ("ms", "times faster than (a)", "of (b)") for level in (native, "AVX2")
    ]
    pairs = {name: (page.data["cases"][name], limited) for name, limited in found["cases"].items()}
    page.table(["case", *columns], [[name, *_figures(*pair)] for name, pair in pairs.items()])
    page.say("The product of signs, ms:")
    products = [(d, page.data["products"][int(d)], limited) for d, limited in found["products"].items()]  # JSON: text
    page.table(*_times("d", native, ("float32", "ours"), products))
    page.say("Ways to the gradients of all logits, ms:")
    strategies = [(name, page.data["strategies"][name], limited) for name, limited in found["strategies"].items()]
    page.table(*_times("case", native, tuple(strategies[0][2]), strategies))


def _figures(native: dict[str, Any], limited: dict[str, Any]) -> list[str]:
    """Each figure of a case with the native kernels and with the others."""
    both = native, limited
    milliseconds = [f"{case['ms']['ours']:.1f}" for case in both]
    return [
        *milliseconds,
        *(f"{case['times_faster']:.1f}" for case in both),
        *(f"{case['of_floor']:.2f}" for case in both),
    ]


def _times(
    first: str, native: str, ways: tuple[str, ...], rows: list[tuple[str, dict[str, float], dict[str, float]]]
) -> tuple[list[str], list[list[str]]]:
    """The heading and rows of a table of times: each way with the native kernels and with the others."""
    heading = [first, *(f"{way}, {level}" for way in ways for level in (native, "AVX2"))]
    shown = [
        [name, *(f"{each[way]:.1f}" if way in each else NONE for way in ways for each in both)] for name, *both in rows
    ]
    return heading, shown


def child() -> None:
    """Print as JSON the small rows of the engine's page that this process measures, and its processor."""
    from benchmarks import engine  # which imports this module

    page = engine.small_rows(Suite(Path(sys.argv[1]), inputs=int(sys.argv[2])))
    data = {key: page.data[key] for key in ("cases", "products", "strategies")}
    print(json.dumps({"processor": processor(), **data}))
