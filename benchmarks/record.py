"""What it costs a server to record its verdicts."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.page import Page
from benchmarks.serving import CLIENTS, _fitted, _inputs, serving, soaked
from benchmarks.shipped import Suite

CASES = ("digits", "cifar10")
ROUNDS = 5


def run(suite: Suite) -> Page:
    """Throughput and processor time of two servers in turn, one of which records, in one run."""
    page = Page("What recording verdicts costs the server")
    page.say(
        f"Two servers of the `fast` detector, one with `--record`, take {suite.inputs} requests of {CLIENTS} clients "
        f"in turn, {ROUNDS} times; the mix of requests is that of `serving`. Ratios of the recording server to the "
        "other: the median over rounds, and the least and the largest. Processor time is that of server and worker "
        "together, which other work on the machine does not change as it does throughput."
    )
    rows = []
    for name in suite.wanted(CASES):
        rates, times, lines = [], [], 0
        with tempfile.TemporaryDirectory() as folder, _fitted(suite, name, "fast") as load:
            with serving(load) as plain, serving(load, Path(folder)) as recording:
                x = _inputs(suite[name])
                soaked(plain, x, 100), soaked(recording, x, 100)
                for _ in range(ROUNDS):
                    found = []
                    for server in (plain, recording):
                        before = server.busy()
                        soak = soaked(server, x, suite.inputs)
                        found.append((soak.inputs / soak.seconds, (server.busy() - before) / soak.inputs))
                    rates.append(found[1][0] / found[0][0])
                    times.append(found[1][1] / found[0][1])
            lines = sum(len(file.read_text().splitlines()) for file in Path(folder).glob("*.jsonl"))
        page.data[name] = {"throughput": _spread(rates), "processor time": _spread(times), "lines": lines}
        rows.append(
            [name, *("{1:.3f} [{0:.3f}, {2:.3f}]".format(*_spread(each)) for each in (rates, times)), f"{lines:,}"]
        )
    page.table(["case", "throughput", "processor time of an input", "lines written"], rows)
    return page


def _spread(ratios: list[float]) -> tuple[float, float, float]:
    return min(ratios), float(np.median(ratios)), max(ratios)
