"""What it costs a server to record its verdicts."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.page import Page
from benchmarks.serving import CLIENTS, _fitted, _inputs, serving, soaked
from benchmarks.shipped import Suite

CASES = ("digits", "cifar10")
ROUNDS = 20
SURE = slice(5, 15)
"""Of the ratios of all rounds, ascending, those that lie within a 95 % interval of their median, whatever their law: it
is between the 6th and the 15th of 20 with probability 95.9 %."""


def run(suite: Suite) -> Page:
    """Throughput and processor time of two servers in turn, one of which records, in one run."""
    page = Page("What recording verdicts costs the server")
    page.say(
        f"Two servers of the `fast` detector, one with `--record`, take {suite.inputs} requests of {CLIENTS} clients "
        f"in turn, {ROUNDS} times, either first in turn; the mix of requests is that of `serving`. Ratios of the "
        "recording server to the other: the median over rounds, with its 95 % interval (order statistics). Processor "
        "time is that of server and worker together, which other work on the machine changes less than throughput."
    )
    rows = []
    for name in suite.wanted(CASES):
        rates, times, lines = [], [], 0
        with tempfile.TemporaryDirectory() as folder, _fitted(suite, name, "fast") as load:
            with serving(load) as plain, serving(load, Path(folder)) as recording:
                x = _inputs(suite[name])
                soaked(plain, x, 100), soaked(recording, x, 100)
                for turn in range(ROUNDS):
                    found = {}
                    for server in (plain, recording)[:: 1 if turn % 2 else -1]:
                        before = server.busy()
                        soak = soaked(server, x, suite.inputs)
                        found[server] = soak.inputs / soak.seconds, (server.busy() - before) / soak.inputs
                    rates.append(found[recording][0] / found[plain][0])
                    times.append(found[recording][1] / found[plain][1])
            lines = sum(len(file.read_text().splitlines()) for file in Path(folder).glob("*.jsonl"))
        page.data[name] = {"throughput": _spread(rates), "processor time": _spread(times), "lines": lines}
        rows.append(
            [name, *("{1:.3f} [{0:.3f}, {2:.3f}]".format(*_spread(each)) for each in (rates, times)), f"{lines:,}"]
        )
    page.table(["case", "throughput", "processor time of an input", "lines written"], rows)
    return page


def _spread(ratios: list[float]) -> tuple[float, float, float]:
    within = sorted(ratios)[SURE]
    return within[0], float(np.median(ratios)), within[-1]
