"""The classifiers and test sets that the laboratory measures: those in a folder beside the project, and the digits."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.named import find
from benchmarks.networks.hardened import HARDENED
from benchmarks.networks.madry import MADRY
from benchmarks.networks.making import fitted_on, made
from benchmarks.networks.registry import NETWORKS, base, default_fit, fit_size, loaded
from gradgeo import attacks
from gradgeo.bench.attacked import attacked
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.scenarios import Task
from gradgeo.bench.user_model import digits_classifier, read_inputs
from gradgeo.data import Source, open_source
from gradgeo.data.models import load_model
from gradgeo.errors import DataError, expected


@dataclass(frozen=True)
class ShippedClassifier:
    """A trained classifier in the folder, its test data, and how it is attacked."""

    net: str
    """The function of models/nets.py that loads it."""
    data: str
    """Its test set, as `Suite.read` takes it."""
    others: tuple[str, ...]
    """Data sets that it was not trained on."""
    near: tuple[str, ...] = ()
    """Those of them whose classes are like its own; the rest is of another sort."""
    budgets: tuple[float, ...] = (8 / 255, 2 / 255, 1 / 255)
    """Of L-inf attacks, the largest first."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """Of the input space; None where it has none."""


SHIPPED = {
    "mnist": ShippedClassifier("mnist_cnn", "mnist", ("fashion_mnist", "kmnist"), ("kmnist",), (0.3, 0.1)),
    "fashion": ShippedClassifier("fashion_cnn", "fashion_mnist", ("mnist", "kmnist"), budgets=(0.1, 0.025)),
    "cifar10": ShippedClassifier(
        "cifar10_resnet20", "cifar10", ("cifar100", "svhn", "mnist", "fashion_mnist"), ("cifar100",)
    ),
    "cifar100": ShippedClassifier(
        "cifar100_resnet20", "cifar100", ("cifar10", "svhn", "mnist", "fashion_mnist"), ("cifar10",)
    ),
    "ecg5000": ShippedClassifier(
        "ecg5000_cnn",
        "ucr:ECG5000/test",
        ("ucr:ECG200/test", "ucr:ECG200/train"),
        ("ucr:ECG200/test", "ucr:ECG200/train"),
        (0.1, 0.025),
        None,
    ),
}


ON_THEIR_DATA = {**HARDENED, **MADRY}
"""Networks made where a measurement asks for them, of the data of a shipped classifier; NAME-noise is of NAME's."""


CHECKED = 25
"""Inputs below which a run is a check that it runs, for which networks are trained on as few."""


def base_of(name: str) -> str:
    """The shipped classifier whose data NAME-noise, NAME-robust or NAME-madry is of."""
    return name.partition("-")[0]


class Suite:
    """Classifiers under test by name, and the data of a run; `digits` needs no folder.

    Args:
        folder: a folder with data/ and models/.
        inputs: how many inputs of each kind a measurement uses, where it does not say otherwise.
        only: names of what is measured; None for all.
        most: the first inputs of each shipped classifier's test set that are read; None for all. Reading thousands of
            images takes seconds, which a measurement of a few need not.
    """

    def __init__(
        self, folder: Path, *, inputs: int = 1000, only: tuple[str, ...] | None = None, most: int | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.inputs = inputs
        self.only = only
        self.most = most
        self._loaded: dict[str, ClassifierUnderTest] = {}
        self._whole: dict[str, ClassifierUnderTest] = {}

    def __getitem__(self, name: str) -> ClassifierUnderTest:
        if name not in self._loaded:
            self._loaded[name] = self._sized(name)
        return self._loaded[name]

    def _sized(self, name: str) -> ClassifierUnderTest:
        """NAME@200 is NAME with 200 trusted inputs to fit on; networks made here have a number of their own."""
        plain, size = base(name), fit_size(name)
        if plain not in self._whole:
            self._whole[plain] = self._load(plain)
        if size is None and plain in NETWORKS:
            return default_fit(plain, self._whole[plain])
        return self._whole[plain] if size is None else fitted_on(self._whole[plain], size, name)

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are measured."""
        return [name for name in names if self.only is None or name in self.only]

    def task(self, name: str, size: int | None = None) -> Task:
        """The task of a classifier, of `inputs` inputs unless `size` says otherwise; fewer where passes are costly."""
        network = NETWORKS.get(base(name))
        most = self.inputs if network is None else min(self.inputs, network.size)
        return Task(self[name], most if size is None else size)

    def _load(self, name: str) -> ClassifierUnderTest:
        if name == "digits":
            return digits_classifier()
        if name in ON_THEIR_DATA:
            few = self.inputs if self.inputs < CHECKED else None
            model = made(name, ON_THEIR_DATA[name], self.folder, few).model
            return replace(self[base_of(name)], name=name, model=model)
        if name in NETWORKS:
            return loaded(name, self.folder)
        shipped = SHIPPED[name]
        model = load_model(self.spec(name))
        if name == "ecg5000":  # the archive's test part is sorted by class
            x, y = self.read(shipped.data)
            order = torch.from_numpy(np.random.RandomState(0).permutation(len(x)))[: self.most]
            x, y, half = x[order], y[order], min(2000, len(order) // 2)
        else:
            x, y = self.read(shipped.data, self.most)
            half = len(x) // 2
        return ClassifierUnderTest(name, model, x, y, half, shipped.budgets, shipped.bounds)

    def source(self, name: str, limit: int | None = None) -> Source:
        """The test set of the classifier `name`, as a source."""
        if name == "digits":
            return open_source("digits", limit=limit)
        return find(SHIPPED[name].data, folder=self.folder, limit=limit)

    def spec(self, name: str) -> str:
        """The name of a classifier as `load_model` takes it."""
        if name == "digits":
            return name
        if not (self.folder / "models" / "nets.py").is_file():
            raise DataError(f"{self.folder} holds no models/nets.py; name the folder of data and models with --data")
        return f"{self.folder}/models/nets.py:{SHIPPED[name].net}"

    def read(self, name: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Test inputs and labels of a public data set by its usual name, or of the UCR archive as `ucr:NAME/PART`."""
        if name.startswith("ucr:"):
            return read_inputs(open_source(name, limit=limit, data_root=self.folder / "data" / "UCR"))
        return read_inputs(find(name, folder=self.folder, limit=limit))


def default_names() -> tuple[str, ...]:
    """The classifiers that are measured where none are named."""
    return (*SHIPPED, *(name for name, network in NETWORKS.items() if network.in_battery))


def shipped_tasks(suite: Suite, names: tuple[str, ...] | None, folder: Path | None) -> list[Task]:
    """The tasks of the classifiers of these names, whose data is in `folder`; `digits` needs none.

    Args:
        names: of classifiers that are shipped or made here, NAME@200 for one fitted on 200; None for all but those too
            costly.
    """
    names = default_names() if names is None else names
    for name in names:
        fit_size(name)
        if base(name) not in ("digits", *SHIPPED, *NETWORKS):
            raise expected("cases", f"among digits, {', '.join((*SHIPPED, *NETWORKS))}", name)
    if folder is None and names != ("digits",):
        raise DataError("no folder with data/ and models/; pass --data, or --quick for the digits alone")
    return [suite.task(name) for name in names]


def pgd_examples(classifier: ClassifierUnderTest, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Successful untargeted PGD examples, step epsilon/4, 100 steps; cached."""
    result = attacked(classifier, x, y, attacks.pgd, epsilon=epsilon)
    return result.adversarial[result.success]
