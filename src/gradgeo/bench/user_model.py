"""What the battery is run on: the classifiers beside the project, or one of the user's own with its data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgeo.bench.case import SHIPPED, Case, Cases, readable
from gradgeo.bench.methods import METHODS, Method
from gradgeo.bench.scenarios import COLUMNS, Column, Setting
from gradgeo.data import Preprocess, open_source
from gradgeo.data.models import load_model, load_object
from gradgeo.errors import ArgumentError, DataError, expected


def own_case(
    model: str,
    data: str,
    *,
    weights: str | None = None,
    preprocess: Preprocess | None = None,
    budgets: tuple[float, ...] | None = None,
) -> Case:
    """A case from a model and data as the other commands name them.

    The data is shuffled by a fixed seed and halved; without labels every input counts as classified correctly. Inputs
    within 0..1 keep to these bounds under attack, with budgets of 8, 2 and 1 levels of 255; others are unbounded, with
    budgets of these shares of their standard deviation.
    """
    x, y = readable(open_source(data, preprocess=preprocess))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    bounded = float(x.min()) >= 0 and float(x.max()) <= 1
    scale = 1.0 if bounded else float(x.std())
    if budgets is None:
        budgets = tuple(scale * levels / 255 for levels in (8, 2, 1))
    bounds = (0.0, 1.0) if bounded else None
    return Case(Path(model).name, load_model(model, weights), x, y, len(x) // 2, budgets, bounds)


def own_setting(model: str, data: str, inputs: int, **options: Any) -> Setting:
    """The setting of one's own classifier; options as in `own_case`."""
    return Setting(own_case(model, data, **options), Cases(Path()), inputs)


def shipped_settings(folder: Path | None, names: tuple[str, ...] | None, inputs: int) -> list[Setting]:
    """The settings of the classifiers of these names in a folder (None: all five); `digits` needs no folder."""
    names = tuple(SHIPPED) if names is None else names
    for name in names:
        if name not in ("digits", *SHIPPED):
            raise expected("cases", f"among digits, {', '.join(SHIPPED)}", name)
    if folder is None and names != ("digits",):
        raise DataError("no folder with data/ and models/; pass --data, or --quick for the digits alone")
    cases = Cases(folder or Path())
    return [Setting(cases[name], cases, inputs) for name in names]


def own_columns(
    ood: tuple[str, ...], attacks: tuple[str, ...] | None, preprocess: Preprocess | None = None
) -> dict[str, Column]:
    """The synthetic columns, those of other data, the attacks of these kinds (None: all) and the mistakes."""
    kinds = {name.split(",")[0].lower() for name, column in COLUMNS.items() if column.cause == "attack"}
    for kind in attacks or ():
        if kind.lower() not in kinds:
            raise expected("attacks", f"among {', '.join(sorted(kinds))}", kind)

    def wanted(name: str, column: Column) -> bool:
        asked = attacks is None or name.split(",")[0].lower() in {kind.lower() for kind in attacks}
        return column.cause != "attack" or asked

    short = [Path(spec).name for spec in ood]
    labels = short if len({*short, *COLUMNS}) == len(short) + len(COLUMNS) else ood
    given = {label: Column("ood", _reader(spec, preprocess)) for label, spec in zip(labels, ood, strict=True)}
    return given | {name: column for name, column in COLUMNS.items() if wanted(name, column)}


def _reader(spec: str, preprocess: Preprocess | None) -> Callable[[Setting], Tensor]:
    def read(setting: Setting) -> Tensor:
        x, _ = readable(open_source(spec, preprocess=preprocess, limit=None))
        if x.shape[1:] != setting.case.x.shape[1:]:
            shapes = f"{tuple(x.shape[1:])}, the classifier's are {tuple(setting.case.x.shape[1:])}"
            raise DataError(f"the inputs of {spec} have shape {shapes}; resize them with --size and --channels")
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        return x[order[: setting.size]]

    return read


def own_method(spec: str) -> Method:
    """What `file.py:function` or `package.module:Class` makes of the model: a detector with pytorch-ood's contract."""
    make = load_object(spec)
    return Method(lambda model, x: make(model))


def chosen_methods(names: tuple[str, ...] | None, more: tuple[str, ...]) -> dict[str, Method]:
    """The built-in methods of these names (None: all), and those of the specs in `more`."""
    for name in names or ():
        if name not in METHODS:
            raise ArgumentError(f"expected methods among {', '.join(METHODS)}, got {name}")
    return {n: m for n, m in METHODS.items() if names is None or n in names} | {s: own_method(s) for s in more}
