"""`gradgeo score`, killed again and again while its input changes: what becomes of its rows."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.page import Page

CHILD = f"from {__name__} import child; child()"
ROWS, PART = 96, 8
OUTS = "folder", "file.parquet", "file.csv"
OTHER_INPUT, NO_ROOM = "with another content of the data", "File too large"
FULL = 0.15
"""Share of the runs whose disk is full."""

INPUTS_A_KILL = 20  # of those that a run is asked for: how often `score` is killed

ROOM = (0, 6000)
"""Bytes that a file may have then: from nothing to less than a part takes."""


def report(page: Page, folder: Path, inputs: int) -> None:
    """Kill the command once for each INPUTS_A_KILL inputs."""
    kills = max(2, inputs // INPUTS_A_KILL)
    found = killed_in_a_process(folder, kills)
    page.data["score"] = found
    page.say(
        f"`gradgeo score`, killed (SIGKILL) {found['killed']} times at random moments while its input is replaced by "
        "another file at random, and started again each time; into a folder, a .parquet and a .csv in turn. A run that "
        "finds parts of other input says so and is started with `--restart`, as it advises. In some runs the disk "
        "is full: no file may grow beyond a few kB (RLIMIT_FSIZE). 'Finished' counts runs that came to their end "
        "before they were killed, and the last for each output; 'wrong rows' those of them that have other rows than "
        "an undisturbed run on one of the two inputs, the last ones on the last input."
    )
    keys = ("killed", "finished", "refused: other input", "refused: no room", "in other words", "wrong rows")
    page.table(list(keys), [[str(found[key]) for key in keys]])


def killed_in_a_process(folder: Path, kills: int, outs: tuple[str, ...] = OUTS) -> dict[str, Any]:
    """`killed` in a process of its own: it is copied (forked) for each run, which no other thread should see."""
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(folder), str(kills), *outs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def child() -> None:
    """Print as JSON what `killed` counts."""
    torch.set_num_threads(1)
    print(json.dumps(killed(Path(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:]))))


def killed(folder: Path, kills: int, outs: tuple[str, ...], seed: int = 0) -> dict[str, int]:
    """Kill the command so many times; what became of all runs, those that were not killed among them."""
    from gradgeo.data import digits
    from gradgeo.detector.detector import Detector

    file, rng = folder / "digits.gradgeo", random.Random(seed)
    Detector(digits.digits_classifier(), evidence="fast").fit(digits.split()["fit"][0]).save(file)
    x = digits.split()["test"][0].numpy()
    versions = [x[at : at + ROWS] for at in (0, ROWS)]

    def put(version: int) -> None:
        np.save(folder / "new.npy", versions[version])
        (folder / "new.npy").replace(folder / "input.npy")

    def arguments(out: str) -> list[str]:
        options = ["--batch-size", str(PART), "--part-size", str(PART), "--out", str(folder / out)]
        return ["score", str(file), "--model", "digits", "--data", str(folder / "input.npy"), *options]

    put(0)
    with suppress(SystemExit), redirect_stdout(sys.stderr):  # imports, once for all runs
        _command_line(arguments(f"first-{outs[0]}"))
    undisturbed: dict[str, list[Any]] = {out: [] for out in outs}
    whole = 0.0
    for version in (0, 1):
        put(version)
        for out in outs:
            began = time.perf_counter()
            what, words = _Run.of(arguments(f"{version}-{out}")).ended()
            if what != "finished":
                raise RuntimeError(words)
            whole = time.perf_counter() - began
            undisturbed[out].append(rows_of(folder / f"{version}-{out}"))

    counts = Counter[str]({"refused: other input": 0, "refused: no room": 0, "in other words": 0, "wrong rows": 0})
    begin_anew: set[str] = set()
    while counts["killed"] < kills:
        out = outs[counts["killed"] % len(outs)]
        limit = rng.randrange(*ROOM) if rng.random() < FULL else None
        run = _Run.of(arguments(out) + ["--restart"] * (out in begin_anew), limit)
        time.sleep(rng.uniform(0, whole / 2))
        if rng.random() < 0.5:
            put(rng.randrange(2))
        time.sleep(rng.uniform(0, whole / 2))
        os.kill(run.pid, signal.SIGKILL)
        what, _ = run.ended()
        counts[what] += 1
        begin_anew = {*begin_anew, out} if what == "refused: other input" else begin_anew - {out}
        if what == "finished" and rows_of(folder / out) not in undisturbed[out]:
            counts["wrong rows"] += 1
    put(0)
    for out in outs:
        what, _ = _Run.of(arguments(out)).ended()
        if what == "refused: other input":
            counts[what] += 1
            what, _ = _Run.of([*arguments(out), "--restart"]).ended()
        counts[what] += 1
        counts["wrong rows"] += what != "finished" or rows_of(folder / out) != undisturbed[out][0]
    if left := [path.name for path in folder.iterdir() if path.name.startswith(".")]:
        raise RuntimeError(f"left behind: {left}")
    return dict(counts)


def rows_of(out: Path) -> list[Any]:
    """The rows of verdicts, whatever they are kept in."""
    if out.suffix == ".csv":
        return out.read_text().splitlines()
    import pyarrow.parquet as pq

    rows: list[Any] = pq.read_table(out).select(["index", "label", "p_value", "trusted", "error"]).to_pylist()
    return rows


def _command_line(arguments: list[str]) -> None:
    from gradgeo.cli import main

    sys.argv = ["gradgeo", *arguments]
    main()


@dataclass(frozen=True)
class _Run:
    """The command line in a copy of this process, which has imported all that it needs."""

    pid: int
    words: int
    """The end of a pipe, which holds all that a run says."""

    @classmethod
    def of(cls, arguments: list[str], limit: int | None = None) -> "_Run":
        """Start it; it may write no file of more than `limit` bytes."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            return cls(pid, reading)
        code = 70
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            _command_line(arguments)
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended(self) -> tuple[str, str]:
        """What came of it, in a word and in its own."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with os.fdopen(self.words, "rb") as pipe:
            words = pipe.read().decode(errors="replace")
        if code == -signal.SIGKILL:
            return "killed", words
        if code == 0:
            return "finished", words
        for what, told in (("refused: other input", OTHER_INPUT), ("refused: no room", NO_ROOM)):
            if code == 1 and told in words:
                return what, words
        return "in other words", words
