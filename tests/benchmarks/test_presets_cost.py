"""The costs of the presets are measured network by network; the page keeps those of other runs."""

import json
from pathlib import Path
from typing import Any

from benchmarks import presets_cost


def _page(**ratios: float) -> presets_cost._Costs:
    def found(ratio: float) -> dict[str, Any]:
        figures = {"fit_on": 500, "fit_ms": 40.0, "fit_passes": 20.0, "peak_mib": 9.0}
        return {"classes": 10, "maps": None, "batch": [ratio, 1, 9], "single": [ratio, 1, 9], **figures}

    return presets_cost._Costs("Costs", data={name: {"lite": found(ratio)} for name, ratio in ratios.items()})


def test_a_page_measured_in_parts_keeps_the_others(tmp_path: Path) -> None:
    _page(cifar100=7, cifar10=3).write(tmp_path, "costs", "first")
    file = _page(lite0_cifar10=2, cifar10=4).write(tmp_path, "costs", "second")
    data = json.loads(file.with_suffix(".json").read_text())
    kept = {name: (data[name]["lite"]["batch"][0], data[name]["lite"]["made"]["command"]) for name in list(data)[1:]}
    assert kept == {"cifar10": (4, "second"), "cifar100": (7, "first"), "lite0_cifar10": (2, "second")}
    rows = [line.split(" | ") for line in file.read_text().splitlines() if line.startswith(("| cifar", "| lite0"))]
    assert [(row[0][2:], row[4], row[5]) for row in rows] == [
        ("cifar10", "64", "4 (1 to 9)"),
        ("cifar100", "64", "7 (1 to 9)"),
        ("lite0_cifar10", "64", "2 (1 to 9)"),
    ]
