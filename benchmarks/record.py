"""What it costs a server to record its verdicts."""

import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import binom

from benchmarks.page import Page
from benchmarks.serving import CLIENTS, _fitted, _inputs, serving, soaked
from benchmarks.shipped import Suite

CASES = ("digits", "cifar10")
AT_LEAST, AT_MOST = 20, 400
"""Rounds."""
WITHIN = 0.04
"""How far an end of the interval of the throughput's ratio may be from the median, as a share of it, once there are
rounds enough: where a record costs next to nothing, a cost of 5 % is then excluded."""


def run(suite: Suite) -> Page:
    """Throughput and processor time of two servers in turn, one of which records, in one run."""
    page = Page("What recording verdicts costs the server")
    page.say(
        f"Two servers of the `fast` detector, one with `--record`, take {suite.inputs} requests of {CLIENTS} clients "
        f"in turn, either first in turn; the mix of requests is that of `serving`. Ratios of the recording server to "
        f"the other: the median over rounds, with its 95 % interval (order statistics). There are {AT_LEAST} rounds, "
        f"and more, up to {AT_MOST}, until the interval of the throughput is within {WITHIN:.0%} of the median: how "
        "narrow it is ends them, not where it lies. Processor time is that of server and worker together."
    )
    rows = []
    for name in suite.wanted(CASES):
        rates: list[float] = []
        times: list[float] = []
        with tempfile.TemporaryDirectory() as folder, _fitted(suite, name, "fast") as load:
            with serving(load) as plain, serving(load, Path(folder)) as recording:
                x = _inputs(suite[name])
                soaked(plain, x, 100), soaked(recording, x, 100)
                while len(rates) < AT_LEAST or (len(rates) < AT_MOST and not _narrow(rates)):
                    found = {}
                    for server in (plain, recording)[:: 1 if len(rates) % 2 else -1]:
                        before = server.busy()
                        soak = soaked(server, x, suite.inputs)
                        found[server] = soak.inputs / soak.seconds, (server.busy() - before) / soak.inputs
                    rates.append(found[recording][0] / found[plain][0])
                    times.append(found[recording][1] / found[plain][1])
            lines = sum(len(file.read_text().splitlines()) for file in Path(folder).glob("*.jsonl"))
        spreads = {"throughput": _spread(rates), "processor time": _spread(times)}
        page.data[name] = {**spreads, "rounds": len(rates), "lines": lines}
        ratios = ("{1:.3f} [{0:.3f}, {2:.3f}]".format(*spread) for spread in spreads.values())
        rows.append([name, *ratios, str(len(rates)), f"{lines:,}"])
    page.table(["case", "throughput", "processor time of an input", "rounds", "lines written"], rows)
    return page


def _narrow(ratios: list[float]) -> bool:
    low, median, high = _spread(ratios)
    return max(median - low, high - median) <= WITHIN * median


def _spread(ratios: list[float]) -> tuple[float, float, float]:
    """The median and the ends of an interval that holds the true one with 95 %, whatever the law of the ratios."""
    n = len(ratios)
    rank = max(1, int(binom.ppf(0.025, n, 0.5)))  # with 97.5 % at least so many of the ratios lie below the true one
    within = sorted(ratios)
    return within[rank - 1], float(np.median(ratios)), within[n - rank]
