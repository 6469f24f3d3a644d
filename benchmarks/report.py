"""What the report of a file of verdicts costs: time, size and memory by the number of rows."""

import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.memory import peak_resident
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo import report
from gradgeo.errors import require

LENGTHS = (10_000, 100_000, 1_000_000)
"""Rows; fewer where a column has fewer than 1,000 inputs."""
PICTURES = 5000  # flagged inputs with a thumbnail and a matrix
DRIFT = 0.2  # added to the scores of the last third, so that there is something to find


def run(suite: Suite) -> Page:
    """Each length in a process of its own."""
    for name in ("pyarrow", "PIL", "jinja2", "matplotlib"):  # reported before the work, not by a process of its own
        require(name, "bench")
    made_scores: Any = import_module("benchmarks.made_scores")
    page = Page("What a report costs")
    page.say(
        "`gradgeo report` on generated verdicts: ten classes, six kinds of evidence, times, about 8 % flagged, a drift "
        f"of {DRIFT} in the last third, thumbnails and matrices of {PICTURES} flagged inputs, pictures of as many "
        "trusted ones as `score` keeps. Wall time from opening the file to the page on disk, the processor's time "
        "within it, and the peak resident memory of the process before and after."
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in (length * min(suite.inputs, 1000) // 1000 for length in LENGTHS):
            scores = made_scores.write(
                Path(folder) / f"{length}.parquet", length, drift=DRIFT, pictures=PICTURES, trusted_pictures=True
            )
            seconds, of_processor, size, before, after = _measured(scores, Path(folder) / f"{length}.html")
            cost = {"seconds": seconds, "cpu": of_processor, "bytes": size, "mib_before": before, "mib_after": after}
            page.data.setdefault("rows", {})[length] = cost
            told = [f"{seconds:.1f}", f"{of_processor:.1f}", f"{size / 1e6:.2f}", f"{before:.0f}", f"{after:.0f}"]
            rows.append([f"{length:,}", *told])
    page.table(["rows", "s", "CPU s", "MB", "MiB before", "after"], rows)
    return page


def _measured(scores: Path, out: Path) -> tuple[float, float, int, float, float]:
    code = "import sys; from benchmarks import report; report.measured(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, str(scores), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, of_processor, before, after = map(float, done.stdout.split())
    return seconds, of_processor, out.stat().st_size, before, after


def measured(scores: str, out: str) -> None:
    """Write the report; print its seconds, those of the processor, and the peak memory before and after, MiB."""
    before, began, cpu = peak_resident(), time.perf_counter(), time.process_time()
    report.write(scores, out)
    print(time.perf_counter() - began, time.process_time() - cpu, before, peak_resident())
