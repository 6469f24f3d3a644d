"""A table: the cut of 53,940 diamonds from their measures, by a multilayer perceptron."""

import csv
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.networks.making import Network
from benchmarks.networks.reading import packaged
from benchmarks.networks.training import fit
from gradgeo.bench.scenarios import Generated, Scenario, Task

WHEEL = "plotnine"
CUTS = ("Fair", "Good", "Very Good", "Premium", "Ideal")
ORDERED = {
    "color": ("J", "I", "H", "G", "F", "E", "D"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}
COLUMNS = ("carat", "depth", "table", "price", "x", "y", "z", "color", "clarity")
TRAINING = 20_000
HEAVY = 1.5
"""Carats: heavier diamonds are a stratum that the classifier never saw."""


@cache
def _rows() -> tuple[Tensor, Tensor]:
    """Columns (N, 9) as they are, words by their place in their order, and the cuts (N,), in random order."""
    with packaged("plotnine", "data/diamonds.csv", WHEEL).open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = [[float(ORDERED[c].index(row[c]) if c in ORDERED else row[c]) for c in COLUMNS] for row in rows]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return torch.tensor(values)[order], torch.tensor([CUTS.index(row["cut"]) for row in rows])[order]


def _parts() -> tuple[Tensor, Tensor, Tensor]:
    """Light diamonds, their cuts, and heavy diamonds."""
    x, y = _rows()
    heavy = x[:, 0] > HEAVY
    return x[~heavy], y[~heavy], x[heavy]


class TableClassifier(nn.Sequential):
    """Three hidden layers over columns of mean 0 and deviation 1; it keeps what they were standardised by."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((len(COLUMNS), 96), (96, 96), (96, 64)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(64, len(CUTS)))
        self.register_buffer("mean", torch.zeros(len(COLUMNS)))
        self.register_buffer("std", torch.ones(len(COLUMNS)))

    def standard(self, rows: Tensor) -> Tensor:
        """Rows as they are in the table, as inputs."""
        return (rows - self.mean) / self.std

    def plain(self, x: Tensor) -> Tensor:
        """Inputs, as rows of the table."""
        return x * self.std + self.mean


def _train(model: nn.Module, folder: Path, few: int | None) -> dict[str, Tensor]:
    assert isinstance(model, TableClassifier)
    x, y, _ = _parts()
    x, y = x[: few or TRAINING], y[: few or TRAINING]
    model.mean, model.std = x.mean(0), x.std(0)
    fit(model, model.standard(x), y, epochs=1 if few else 15)
    return model.state_dict()


def _held_out(model: nn.Module, folder: Path, few: int | None) -> tuple[Tensor, Tensor]:
    assert isinstance(model, TableClassifier)
    x, y, _ = _parts()
    return model.standard(x[TRAINING : TRAINING + (few or 6000)]), y[TRAINING : TRAINING + (few or 6000)]


TABLE_NETWORKS = {
    "diamonds": Network(
        kind="table",
        trained_on=f"20,000 of 53,940 diamonds, none above {HEAVY} carats, 9 columns, 5 cuts",
        licence="diamonds: MIT, as ggplot2 and plotnine ship it",
        module="table.py",
        files=lambda folder: [packaged("plotnine", "data/diamonds.csv", WHEEL)],
        build=lambda folder: TableClassifier(),
        train=_train,
        held_out=_held_out,
        half=4000,
        budgets=(0.3, 0.1),
        bounds=None,
    )
}
"""By name."""


def _of_table(task: Task) -> bool:
    return isinstance(task.classifier.model, TableClassifier)


def _model(task: Task) -> TableClassifier:
    assert isinstance(task.classifier.model, TableClassifier)
    return task.classifier.model


def _places(task: Task, name: str) -> tuple[Tensor, torch.Tensor]:
    """Trusted inputs, and one column of each by chance (N,)."""
    x = task.x.clone()
    return x, torch.randint(len(COLUMNS), (len(x),), generator=task.generator(name))


def _heavy(task: Task) -> Generated:
    return Generated(_model(task).standard(_parts()[2][: task.size]), kind="near")


def _out_of_range(task: Task) -> Tensor:
    """One column beyond all that was seen, as from a slipped decimal point."""
    x, column = _places(task, "out of range")
    x[torch.arange(len(x)), column] = 8 + 4 * torch.rand(len(x), generator=task.generator("how far"))
    return x


def _slipped(task: Task) -> Tensor:
    """One measure ten times too small, in its own units."""
    x, column = _places(task, "decimal point")
    rows = _model(task).plain(x)
    rows[torch.arange(len(x)), column % 7] /= 10
    return _model(task).standard(rows)


def _missing(task: Task) -> Tensor:
    """Two columns 0 where nothing was measured."""
    x, column = _places(task, "missing as zero")
    rows = _model(task).plain(x)
    rows[torch.arange(len(x)), column % 7] = 0
    rows[torch.arange(len(x)), (column + 3) % 7] = 0
    return _model(task).standard(rows)


def _permuted(task: Task) -> Tensor:
    """All columns by one place further, in their own units."""
    return _model(task).standard(_model(task).plain(task.x).roll(1, 1))


def _swapped(task: Task) -> Tensor:
    """Depth and table exchanged, which have nearly the same range."""
    rows = _model(task).plain(task.x)
    rows[:, [1, 2]] = rows[:, [2, 1]]
    return _model(task).standard(rows)


def _independent(task: Task) -> Tensor:
    """Each column from another row: its distribution is kept, what belongs together is not."""
    generator = task.generator("independent columns")
    columns = [column[torch.randperm(len(task.x), generator=generator)] for column in task.x.T]
    return torch.stack(columns, 1)


def _inches(task: Task) -> Tensor:
    """Length, width and height in another unit."""
    rows = _model(task).plain(task.x)
    rows[:, 4:7] /= 25.4
    return _model(task).standard(rows)


TABLE_SCENARIOS = {
    "other strata": Scenario("ood", _heavy, _of_table, "near"),
    "independent columns": Scenario("ood", _independent, _of_table, "far"),
    "out of range": Scenario("ood", _out_of_range, _of_table, "spoilt"),
    "decimal point": Scenario("ood", _slipped, _of_table, "spoilt"),
    "missing as zero": Scenario("ood", _missing, _of_table, "spoilt"),
    "permuted columns": Scenario("ood", _permuted, _of_table, "spoilt"),
    "swapped columns": Scenario("ood", _swapped, _of_table, "spoilt"),
    "other units": Scenario("ood", _inches, _of_table, "spoilt"),
    "random rows": Scenario("ood", lambda task: 2 * task.noise("random rows", torch.randn), _of_table, "far"),
}
"""What goes wrong with a table."""
