"""What a pass within a memory budget takes."""

import resource
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.benchmark.page import Page
from gradgeo.geometry.similarity import csm


def heights(page: Page, *, quick: bool) -> None:
    """Add to `page` how much of its budget a pass takes at its height, where the system tells."""
    if not Path("/proc/self/statm").exists():
        return
    settings = [(600, 48, 8, None, 256), (600, 48, 8, 10, 64)]
    if not quick:
        settings += [(600, 48, 64, None, 256), (1000, 224, 2, None, 1024), (1000, 224, 16, 50, 1024)]
    rows = []
    for total, side, n, classes, budget in settings:
        model = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
            *(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, total)),
        )
        x = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))
        csm(model, x[:1], classes=3)  # what libraries allocate once
        for sign in (True, False):
            share = _height(model, x, budget << 20, classes=classes, sign=sign) / (budget << 20)
            page.data.setdefault("memory", []).append(
                {"classes": total, "maps": classes or total, "d": x[0].numel(), "n": n, "mib": budget, "share": share}
            )
            kind = "signed" if sign else "unsigned"
            rows.append(
                [kind, f"{classes or total} of {total}", str(x[0].numel()), str(n), str(budget), f"{share:.2f}"]
            )
    page.say(
        "Memory: the height of what the process holds above the model, the inputs and the result during one call of "
        "`gradgeo.csm`, read every 2 ms, as a share of its `memory_budget`; a convolution, two linear layers, 32 "
        "features."
    )
    page.table(["maps", "K of C", "d", "N", "budget, MiB", "height, share of it"], rows)


def _height(model: nn.Module, x: Tensor, budget: int, **options: Any) -> int:
    """The most bytes that were resident during a call, above those before it and the result's."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], _resident())

    before = _resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = csm(model, x, memory_budget=budget, **options)
    finally:
        done.set()
        watcher.join()
    return max(0, most[0] - before - result.numel() * result.element_size())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
