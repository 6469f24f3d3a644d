"""What a pass within a memory budget takes: each measured in a process of its own, as one keeps what it frees."""

import resource
import subprocess
import sys
import threading
from pathlib import Path

import torch
from torch import nn

from benchmarks.page import Page
from gradgeo.geometry.similarity import csm

CHILD = f"from {__name__} import child; child()"
STATM = Path("/proc/self/statm")


def heights(page: Page, *, quick: bool) -> None:
    """Add to `page` how much of its budget a pass takes at its height, where the system tells; if `quick`, of one."""
    if not STATM.exists():
        return
    settings = [(600, 48, 8, 600, 256)]
    if not quick:
        settings += [
            (600, 48, 64, 600, 256),
            (600, 48, 64, 10, 64),
            (1000, 224, 2, 1000, 1024),
            (1000, 224, 16, 50, 512),
        ]
    rows = []
    for kind in ("signed",) if quick else ("signed", "unsigned"):
        for total, side, n, maps, budget in settings:
            command = [sys.executable, "-c", CHILD, kind, *map(str, (total, side, n, maps, budget))]
            share = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            d = 3 * side * side
            page.data.setdefault("memory", []).append(
                {"kind": kind, "classes": total, "maps": maps, "d": d, "n": n, "mib": budget, "share": share}
            )
            rows.append([kind, f"{maps} of {total}", str(d), str(n), str(budget), f"{share:.2f}"])
    page.say(
        "Memory: the height of what a process holds above the model, the inputs and the result during one call of "
        "`gradgeo.csm`, read every 2 ms, as a share of its `memory_budget`; a convolution, two linear layers, 32 "
        "features."
    )
    page.table(["maps", "K of C", "d", "N", "budget, MiB", "height, share of it"], rows)


def height(*, sign: bool, total: int, side: int, n: int, maps: int, budget: int) -> float:
    """The most bytes that were resident during a call, above those before it and the result's, by those allowed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
        *(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, total)),
    )
    csm(model, torch.rand(2, 3, 24, 24), classes=maps, sign=sign)  # what libraries allocate once
    x, most, done = torch.rand(n, 3, side, side), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], _resident())

    before = _resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = csm(model, x, sign=sign, classes=maps, memory_budget=budget)
    finally:
        done.set()
        watcher.join()
    return (most[0] - before - result.numel() * result.element_size()) / budget


def _resident() -> int:
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


def peak_resident() -> float:
    """Peak resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage it knows nothing of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


def child() -> None:
    """Print the `height` that the parent process asks for."""
    torch.set_num_threads(1)
    total, side, n, maps, mib = map(int, sys.argv[2:])
    print(height(sign=sys.argv[1] == "signed", total=total, side=side, n=n, maps=maps, budget=mib << 20))
