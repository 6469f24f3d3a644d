"""The trained classifiers and their test data, and measurements of them that are made once and kept in a cache."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradgeo import attacks, demo
from gradgeo.classifier import Classifier
from gradgeo.data import digits, open_source
from gradgeo.errors import DataError
from gradgeo.geometry.similarity import csm, csm_statistics
from gradgeo.models import load_model
from gradgeo.one_class import ClassConditionalCopula

Array = NDArray[np.float64]

CACHE = Path(".cache/bench")

FILES = {
    "mnist": "mnist-test-1000.parquet",
    "fashion": "fashion_mnist-test.parquet",
    "cifar10": "cifar10-test.parquet",
    "cifar100": "cifar100-test.parquet",
}
NETS = {
    "mnist": "mnist_cnn",
    "fashion": "fashion_cnn",
    "cifar10": "cifar10_resnet20",
    "cifar100": "cifar100_resnet20",
    "ecg5000": "ecg5000_cnn",
}


@dataclass(frozen=True)
class Case:
    """A classifier with test inputs it was not trained on: the first `half` to fit detectors, the rest to report."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    half: int

    @cached_property
    def logits(self) -> Tensor:
        """Of all inputs (N, C)."""
        classifier = Classifier(self.model)
        return torch.cat([classifier.judge(part).logits for part in self.x.split(250)])

    @property
    def right(self) -> Tensor:
        """Which inputs are classified correctly (N,)."""
        return self.logits.argmax(1) == self.y

    @property
    def margin(self) -> Tensor:
        """Largest minus second logit (N,)."""
        return -self.logits.topk(2, dim=1).values.diff(dim=1)[:, 0]


@dataclass(frozen=True)
class Seen:
    """The ten statistics of some inputs and their predicted classes."""

    features: Array
    label: NDArray[np.int64]

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Seen":
        return Seen(self.features[rows], self.label[rows])

    def score(self, model: ClassConditionalCopula) -> Array:
        """Outlier scores (N,) by a one-class model."""
        return model.score(torch.from_numpy(self.features), torch.from_numpy(self.label)).numpy()


@dataclass(frozen=True)
class Attacked:
    """What an attack made of correctly classified inputs."""

    adversarial: Tensor  # (N, *input)
    success: Tensor  # (N,) the attack's own goal
    flipped: Tensor  # (N,) another prediction than before, whichever


class Cases:
    """Cases by name, from a folder with data/ and models/; `digits` needs none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._known: dict[str, Case] = {}

    def __getitem__(self, name: str) -> Case:
        if name not in self._known:
            self._known[name] = self._load(name)
        return self._known[name]

    def _load(self, name: str) -> Case:
        if name == "digits":
            parts = digits.split()
            x, y = (torch.cat([parts[part][i] for part in ("fit", "test")]) for i in (0, 1))
            return Case(name, demo.digits_classifier(), x, y, len(parts["fit"][0]))
        if not (self._folder / "models" / "nets.py").is_file():
            raise DataError(f"{self._folder} holds no models/nets.py; name the folder of data and models with --data")
        model = load_model(f"{self._folder}/models/nets.py:{NETS[name]}")
        x, y = self.read("ucr:ECG5000/test" if name == "ecg5000" else FILES[name])
        if name == "ecg5000":  # the archive's test part is sorted by class
            order = torch.from_numpy(np.random.RandomState(0).permutation(len(x)))
            return Case(name, model, x[order], y[order], 2000)
        return Case(name, model, x, y, len(x) // 2)

    def read(self, source: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a data source in the folder."""
        data = self._folder / "data"
        items = open_source(source if ":" in source else data / source, limit=limit, data_root=data / "UCR")
        kept = [(item.x, item.label) for i in range(len(items)) if (item := items[i]).x is not None]
        return torch.stack([x for x, _ in kept if x is not None]), torch.tensor(
            [-1 if y is None else y for _, y in kept]
        )

    def seen(self, case: Case, x: Tensor, temperature: float) -> Seen:
        """The ten statistics of `x` at a temperature; cached."""

        def measure() -> dict[str, Any]:
            classifier = Classifier(case.model)
            label = torch.cat([classifier.judge(part).logits for part in x.split(250)]).argmax(1)
            matrices = csm(case.model, x, temperature=temperature)
            return {"features": csm_statistics(matrices, label).double().numpy(), "label": label.numpy()}

        kept = self._cached(measure, "seen", case.name, round(temperature, 9), _hash(x))
        return Seen(kept["features"], kept["label"])

    def pgd(self, case: Case, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
        """Successful untargeted PGD examples, step epsilon/4, 100 steps; cached."""
        made = self.attacked(
            case, x, f"PGD {epsilon:.9g}", partial(attacks.pgd, case.model, x, y, epsilon=epsilon, steps=100)
        )
        return made.adversarial[made.success]

    def attacked(self, case: Case, x: Tensor, name: str, attack: Callable[[], attacks.AttackResult]) -> "Attacked":
        """What the attack called `name` made of `x`; cached."""

        def run() -> dict[str, Any]:
            result = attack()
            classifier = Classifier(case.model)
            after = torch.cat([classifier.judge(part).logits.argmax(1) for part in result.adversarial.split(250)])
            before = torch.cat([classifier.judge(part).logits.argmax(1) for part in x.split(250)])
            return {
                "adversarial": result.adversarial.numpy(),
                "success": result.success.numpy(),
                "flipped": (after != before).numpy(),
            }

        kept = self._cached(run, "attacked", case.name, name, _hash(x))
        return Attacked(**{key: torch.from_numpy(value) for key, value in kept.items()})

    def _cached(self, make: Callable[[], dict[str, Any]], *key: object) -> dict[str, Any]:
        path = CACHE / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.npz"
        if not path.exists():
            made = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".part.npz")
            np.savez(temporary, **made)
            temporary.replace(path)
        with np.load(path) as kept:
            return dict(kept)


def _hash(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def smooth_blobs(n: int, size: int, generator: torch.Generator) -> Tensor:
    """6 x 6 uniform noise upsampled bicubically, (n, 3, size, size) in [0, 1]."""
    noise = torch.rand(n, 3, 6, 6, generator=generator)
    return nn.functional.interpolate(noise, size=size, mode="bicubic").clamp(0, 1)
