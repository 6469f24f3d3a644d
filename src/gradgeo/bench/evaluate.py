"""One classifier, every column, every method: the run that fills the benchmark's page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.page import made_by
from gradgeo.bench import comparison
from gradgeo.bench.methods import METHODS, Method
from gradgeo.bench.scenarios import COLUMNS, Column, Made, Setting
from gradgeo.bench.scores import Scored, attempt, groups
from gradgeo.errors import GradgeoError

SCHEMA = 1

TRUSTED = "trusted"  # among the columns: the inputs that are to be told from the others

Say = Callable[[str], None]


def silent(text: str) -> None:
    """Say nothing."""


def evaluate(
    setting: Setting,
    *,
    columns: dict[str, Column] | None = None,
    methods: dict[str, Method] | None = None,
    command: str = "gradgeo bench",
    say: Say = silent,
) -> dict[str, Any]:
    """Scores, figures and differences of `methods` on `columns` for one classifier, as JSON-ready data.

    A column that cannot be made and a method that fails keep their place, with the reason.
    """
    case, methods = setting.case, methods or METHODS
    described, inputs = columns_of(setting, columns or COLUMNS, say)
    found: dict[str, Scored | Exception] = {}
    for group in groups(methods):
        say(f"{case.name}: scoring with {', '.join(group)}")
        found |= attempt(group, case, inputs)
    scores: dict[str, comparison.Scores] = {}
    used: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        used[name] = {"peer": method.peer, "passes": method.passes, "error": None, "ms_per_input": None}
        scored = found[name]
        if isinstance(scored, Exception):
            used[name]["error"] = _portable(f"{type(scored).__name__}: {scored}")[:300]
            continue
        outside = {column: of for column, of in scored.scores.items() if column != TRUSTED}
        scores[name] = comparison.Scores(scored.scores[TRUSTED], outside)
        used[name]["ms_per_input"] = scored.ms_per_input
    return {
        "schema": SCHEMA,
        "made": made_by(command),
        "model": {
            "name": case.name,
            "classes": case.logits.shape[1],
            "accuracy": float(case.right[case.half :].double().mean()),
            "fitted_on": int(case.right[: case.half].sum()),
            "trusted": len(inputs[TRUSTED]),
        },
        "columns": described,
        "methods": used,
        **_compared(scores, {name for name, facts in used.items() if facts["peer"]}),
    }


def columns_of(
    setting: Setting, columns: dict[str, Column], say: Say = silent
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """What is to be said of each column that applies, and its inputs, if it has any; the trusted ones come first."""
    described: dict[str, dict[str, Any]] = {}
    inputs = {TRUSTED: setting.x}
    for name, column in columns.items():
        if not column.applies(setting):
            continue
        say(f"{setting.case.name}: making {name}")
        found, error = _made(column, setting)
        described[name] = {
            "cause": column.cause,
            "count": len(found.x),
            "success_rate": found.success,
            "note": found.note,
            "error": error,
        }
        if len(found.x):
            inputs[name] = found.x
    return described, inputs


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
        found = column.make(setting)
    except GradgeoError as error:
        return Made(torch.empty(0)), _portable(str(error))
    return (found if isinstance(found, Made) else Made(found)), None


def _portable(text: str) -> str:
    """`text` without the folders of this machine, as results are published."""
    for place, short in ((Path.cwd(), "."), (Path.cwd().parent, ".."), (Path.home(), "~")):
        text = text.replace(f"{place}/", f"{short}/") if place != Path("/") else text
    return text
