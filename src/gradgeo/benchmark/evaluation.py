"""One classifier, every column, every method: the run that fills the benchmark's page."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgeo.benchmark import comparison
from gradgeo.benchmark.battery import COLUMNS, Column, Made, Setting
from gradgeo.benchmark.methods import METHODS, Method
from gradgeo.benchmark.own import chosen_methods, shipped_settings
from gradgeo.benchmark.page import made_by
from gradgeo.errors import GradgeoError

SCHEMA = 1

Say = Callable[[str], None]


def _silent(text: str) -> None:
    """Say nothing."""


def prepare(
    folder: Path | None,
    names: tuple[str, ...],
    inputs: int,
    methods: tuple[tuple[str, ...] | None, tuple[str, ...]],
    jobs: int,
    say: Say = _silent,
) -> None:
    """Do the work of several classifiers in processes of one thread each; what they find stays in the cache.

    Each process says for itself what it is at by `say`, a function that can be pickled.

    Networks as small as ours gain next to nothing from a second thread: two processes do in an hour what one of two
    threads does in an hour and a half.
    """
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(_work, folder, inputs, methods, say), names))


def _work(
    folder: Path | None, inputs: int, methods: tuple[tuple[str, ...] | None, tuple[str, ...]], say: Say, name: str
) -> None:
    torch.set_num_threads(1)
    (setting,) = shipped_settings(folder, (name,), inputs)
    evaluate(setting, methods=chosen_methods(*methods), say=say)


def evaluate(
    setting: Setting,
    *,
    columns: dict[str, Column] | None = None,
    methods: dict[str, Method] | None = None,
    command: str = "gradgeo bench",
    say: Say = _silent,
) -> dict[str, Any]:
    """Scores, figures and differences of `methods` on `columns` for one classifier, as JSON-ready data.

    A column that cannot be made and a method that fails keep their place, with the reason.
    """
    case, trusted = setting.case, setting.x
    described: dict[str, dict[str, Any]] = {}
    inputs: dict[str, Tensor] = {}
    for name, column in (columns or COLUMNS).items():
        if not column.applies(setting):
            continue
        say(f"{case.name}: making {name}")
        made, error = _made(column, setting)
        described[name] = {
            "cause": column.cause,
            "count": len(made.x),
            "success_rate": made.success,
            "note": made.note,
            "error": error,
        }
        if len(made.x):
            inputs[name] = made.x
    scores: dict[str, comparison.Scores] = {}
    used: dict[str, dict[str, Any]] = {}
    for name, method in (methods or METHODS).items():
        say(f"{case.name}: scoring with {name}")
        used[name] = {"peer": method.peer, "passes": method.passes, "error": None, "ms_per_input": None}
        try:
            scored = method.scores(name, case, {"trusted": trusted, **inputs})
        except Exception as error:  # a peer may fail in any way; the others still count
            used[name]["error"] = _portable(f"{type(error).__name__}: {error}")[:300]
            continue
        outside = {column: found for column, found in scored.scores.items() if column != "trusted"}
        scores[name] = comparison.Scores(scored.scores["trusted"], outside)
        used[name]["ms_per_input"] = scored.ms_per_input
    return {
        "schema": SCHEMA,
        "made": made_by(command),
        "model": {
            "name": case.name,
            "classes": case.logits.shape[1],
            "accuracy": float(case.right[case.half :].double().mean()),
            "fitted_on": int(case.right[: case.half].sum()),
            "trusted": len(trusted),
        },
        "columns": described,
        "methods": used,
        **_compared(scores, {name for name, facts in used.items() if facts["peer"]}),
    }


def _compared(scores: dict[str, comparison.Scores], peers: set[str]) -> dict[str, Any]:
    ours = [name for name in scores if name not in peers]
    if ours:
        return comparison.compare(scores, ours=ours[0], peers=peers)
    found = comparison.cells(scores)  # nothing to test the peers against
    return {
        "cells": found,
        "summary": comparison.summary(found, peers),
        "differences": {},
        "curves": comparison.curves(scores),
        "histograms": comparison.histograms(scores),
    }


def _made(column: Column, setting: Setting) -> tuple[Made, str | None]:
    try:
        made = column.make(setting)
    except GradgeoError as error:
        return Made(torch.empty(0)), _portable(str(error))
    return (made if isinstance(made, Made) else Made(made)), None


def _portable(text: str) -> str:
    """`text` without the folders of this machine, as results are published."""
    for place, short in ((Path.cwd(), "."), (Path.cwd().parent, ".."), (Path.home(), "~")):
        text = text.replace(f"{place}/", f"{short}/") if place != Path("/") else text
    return text
