"""The trained classifiers and their test data, and measurements of them that are made once and kept in a cache."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from benchmarks.named import find
from gradgeo import attacks, demo
from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.bench.cache import CHUNK, cached, code, content, weights
from gradgeo.classifier.wrapper import Classifier
from gradgeo.data import Source, digits, open_source
from gradgeo.data.models import load_model
from gradgeo.detector.detector import TYPICAL_MARGIN
from gradgeo.detector.one_class import ClassConditionalCopula
from gradgeo.errors import DataError
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps
from gradgeo.geometry.similarity import csm_of, csm_statistics

STATISTICS = ("classifier.py", "geometry/*.py")  # the source that the ten statistics depend on

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05)  # of the classes, whose maps are used (the paper's Table 3)

ATTACKS = 2  # raise when an attack comes to find something else: what it found before is then made again

Attack = Callable[..., attacks.AttackResult]
"""(model, x, y, generator=...) -> what it made."""


@dataclass(frozen=True)
class Shipped:
    """A trained classifier beside the project, its test data, and how it is attacked."""

    net: str
    data: str
    siblings: tuple[str, ...]
    budgets: tuple[float, ...] = (8 / 255, 2 / 255, 1 / 255)
    bounds: tuple[float, float] | None = (0.0, 1.0)


SHIPPED = {
    "mnist": Shipped("mnist_cnn", "mnist", ("fashion_mnist", "kmnist"), (0.3, 0.1)),
    "fashion": Shipped("fashion_cnn", "fashion_mnist", ("mnist", "kmnist"), (0.1, 0.025)),
    "cifar10": Shipped("cifar10_resnet20", "cifar10", ("cifar100", "svhn", "mnist", "fashion_mnist")),
    "cifar100": Shipped("cifar100_resnet20", "cifar100", ("cifar10", "svhn", "mnist", "fashion_mnist")),
    "ecg5000": Shipped("ecg5000_cnn", "ucr:ECG5000/test", ("ucr:ECG200/test", "ucr:ECG200/train"), (0.1, 0.025), None),
}


@dataclass(frozen=True)
class Case:
    """A classifier with test inputs it was not trained on: the first `half` to fit detectors, the rest to report."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    half: int
    budgets: tuple[float, ...] = (8 / 255, 2 / 255, 1 / 255)  # of L-inf attacks, the largest first
    bounds: tuple[float, float] | None = (0.0, 1.0)  # of the input space
    siblings: tuple[str, ...] = ()  # the data sets it was not trained on

    @cached_property
    def logits(self) -> Tensor:
        """Of all inputs (N, C)."""
        return judged(self.model, self.x)

    @cached_property
    def temperature(self) -> float:
        """What a detector fitted on the trusted inputs of the first half would differentiate at."""
        margins = self.margin[: self.half][self.right[: self.half]]
        return float(np.quantile(margins.double().numpy(), TYPICAL_MARGIN))

    @cached_property
    def folded(self) -> nn.Module:
        """A copy with batch normalisation inside its convolutions, its images channels last, for attacks: the same
        function up to rounding, and faster."""
        model = copy.deepcopy(self.model).eval()
        try:
            return fuse(model).to(memory_format=torch.channels_last)
        except Exception:  # torch.fx cannot trace every model, and says so in many ways
            return model

    @property
    def right(self) -> Tensor:
        """Which inputs are classified correctly (N,); those without a label (-1) count as such."""
        return (self.logits.argmax(1) == self.y) | (self.y < 0)

    @property
    def margin(self) -> Tensor:
        """Largest minus second logit (N,)."""
        return -self.logits.topk(2, dim=1).values.diff(dim=1)[:, 0]


@dataclass(frozen=True)
class Seen:
    """The ten statistics of some inputs and their predicted classes."""

    features: Array
    label: IntArray

    def __getitem__(self, rows: IntArray | BoolArray) -> "Seen":
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
    """Cases by name, from a folder with data/ and models/; `digits` needs none.

    Args:
        folder: that folder.
        inputs: how many a measurement takes of each kind, where it does not say otherwise.
        only: the cases that are wanted; None for all.
    """

    def __init__(self, folder: Path, *, inputs: int = 1000, only: tuple[str, ...] | None = None) -> None:
        self._folder = folder.resolve()
        self.inputs = inputs
        self._only = only
        self._known: dict[str, Case] = {}

    def __getitem__(self, name: str) -> Case:
        if name not in self._known:
            self._known[name] = self._load(name)
        return self._known[name]

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are wanted."""
        return [name for name in names if self._only is None or name in self._only]

    def _load(self, name: str) -> Case:
        if name == "digits":
            parts = digits.split()
            x, y = (torch.cat([parts[part][i] for part in ("fit", "test")]) for i in (0, 1))
            return Case(name, demo.digits_classifier(), x, y, len(parts["fit"][0]), (0.3, 0.1))
        shipped = SHIPPED[name]
        model = load_model(self.spec(name))
        x, y = self.read(shipped.data)
        half = len(x) // 2
        if name == "ecg5000":  # the archive's test part is sorted by class
            order = torch.from_numpy(np.random.RandomState(0).permutation(len(x)))
            x, y, half = x[order], y[order], 2000
        return Case(name, model, x, y, half, shipped.budgets, shipped.bounds, shipped.siblings)

    @property
    def folder(self) -> Path:
        """What holds data/ and models/."""
        return self._folder

    def source(self, name: str, limit: int | None = None) -> Source:
        """The test set that the case `name` is of, as a source."""
        if name == "digits":
            return open_source("digits", limit=limit)
        return find(SHIPPED[name].data, folder=self._folder, limit=limit)

    def spec(self, name: str) -> str:
        """What `load_model` calls the classifier of a case."""
        if name == "digits":
            return name
        if not (self._folder / "models" / "nets.py").is_file():
            raise DataError(f"{self._folder} holds no models/nets.py; name the folder of data and models with --data")
        return f"{self._folder}/models/nets.py:{SHIPPED[name].net}"

    def signals(self, case: Case) -> Tensor:
        """The signals of the case's siblings, resampled to its length."""
        parts = [self.read(name)[0] for name in case.siblings]
        length = case.x.shape[-1]
        return torch.cat([nn.functional.interpolate(x, size=length, mode="linear", align_corners=True) for x in parts])

    def read(self, name: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Test inputs and labels of a public data set by its usual name, or of the UCR archive as `ucr:NAME/PART`."""
        if name.startswith("ucr:"):
            return readable(open_source(name, limit=limit, data_root=self._folder / "data" / "UCR"))
        return readable(find(name, folder=self._folder, limit=limit))

    def seen(self, case: Case, x: Tensor, temperature: float, *, share: float = 1.0) -> Seen:
        """The ten statistics of `x` at a temperature, from the maps of a share of the classes; cached.

        The gradients that span all maps are the same at every temperature, so the classifier's own and the paper's are
        measured together.

        Args:
            share: one of `SHARES`; the most likely classes of each input are taken, at least 3.
        """

        temperatures = tuple(dict.fromkeys((case.temperature, 1.0)))
        if temperature not in temperatures:
            temperatures = (temperature,)

        def measure(x: Tensor) -> dict[str, Any]:
            def seen(forward: InputJacobian, rows: slice) -> tuple[Tensor, Tensor]:
                losses = [Loss("cross_entropy", t) for t in temperatures]
                return _statistics(forward, [Maps(loss) for loss in losses]), forward.predicted

            parts = map_chunks(case.model, [x], Maps(), seen, streamed=True)
            features, label = (torch.cat([part[i] for part in parts]).numpy() for i in (0, 1))
            return {"features": features, "label": label}

        key = ("seen", weights(case.model), code(*STATISTICS), [round(t, 6) for t in temperatures], SHARES)
        parts = [cached(partial(measure, part), *key, content(part)) for part in torch.split(x, CHUNK)]
        wanted = temperatures.index(temperature), SHARES.index(share)
        features = np.concatenate([part["features"][:, *wanted] for part in parts])
        return Seen(features, np.concatenate([part["label"] for part in parts]))

    def fitted(self, case: Case, temperature: float, *, share: float = 1.0) -> ClassConditionalCopula:
        """The one-class model of `seen` over the trusted inputs of the first half."""
        learnt = self.seen(case, case.x[: case.half][case.right[: case.half]], temperature, share=share)
        return ClassConditionalCopula.fit(learnt.features, learnt.label, case.logits.shape[1])

    def pgd(self, case: Case, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
        """Successful untargeted PGD examples, step epsilon/4, 100 steps; cached."""
        made = self.attacked(case, x, y, attacks.pgd, epsilon=epsilon)
        return made.adversarial[made.success]

    def attacked(
        self, case: Case, x: Tensor, y: Tensor, attack: Attack, *, against: str = "", **options: Any
    ) -> "Attacked":
        """What an attack with these options makes of `x`, in chunks that are cached one by one.

        Args:
            against: what else it depends on: the code of a detector, where it attacks that too.
        """
        name = " ".join([f"{attack.__name__}{against}", *(f"{key}={value}" for key, value in sorted(options.items()))])

        def run(x: Tensor, y: Tensor, seed: int) -> dict[str, Any]:
            result = attack(
                case.folded, x, y, bounds=case.bounds, generator=torch.Generator().manual_seed(seed), **options
            )
            after = predicted(case.model, result.adversarial)
            reached = result.success if result.targets is None else after == result.targets
            return {
                "adversarial": result.adversarial.numpy(),
                "success": reached.numpy(),
                "flipped": (after != predicted(case.model, x)).numpy(),
            }

        parts = [
            cached(
                partial(run, part, labels, seed),
                *("attacked", ATTACKS, weights(case.model), name, seed, content(part), content(labels)),
            )
            for seed, (part, labels) in enumerate(zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True))
        ]
        return Attacked(
            **{key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]},
        )


def readable(source: Source) -> tuple[Tensor, Tensor]:
    """The inputs of a source that can be read and have the shape of the first, and their labels, -1 where unknown."""
    items = [item for batch in source.batches(CHUNK) for item in batch if item.x is not None]
    if not items or items[0].x is None:
        raise DataError(f"{source.spec} holds no input that can be read")
    shape = items[0].x.shape
    kept = [(item.x, -1 if item.label is None else item.label) for item in items if item.x is not None]
    kept = [(x, y) for x, y in kept if x.shape == shape]
    return torch.stack([x for x, _ in kept]), torch.tensor([y for _, y in kept])


def judged(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (N, C)."""
    classifier = Classifier(model)
    return torch.cat([classifier.logits(part).logits for part in torch.split(x, CHUNK)])


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes (N,)."""
    return judged(model, x).argmax(1)


def count(share: float, classes: int) -> int:
    """How many maps a share of the classes is; two classes beside the predicted one are the least to compare."""
    return min(classes, max(3, round(share * classes)))


def _statistics(forward: InputJacobian, options: list[Maps]) -> Tensor:
    """The ten statistics (N, options, SHARES, 10) of a pass."""
    first = torch.zeros(len(forward.logits), dtype=torch.long)
    rows = []
    for maps in options:
        matrices = csm_of(forward, maps)
        kept = [_among(matrices, forward.logits, count(share, forward.logits.shape[1])) for share in SHARES]
        rows.append(torch.stack([csm_statistics(matrix, first) for matrix in kept], dim=1))
    return torch.stack(rows, dim=1).double()


def _among(matrices: Tensor, logits: Tensor, kept: int) -> Tensor:
    """The CSM (N, count, count) of each input's most likely classes, the predicted one first."""
    rows = logits.topk(kept, dim=1).indices
    narrowed = matrices.gather(1, rows[:, :, None].expand(-1, -1, matrices.shape[2]))
    return narrowed.gather(2, rows[:, None, :].expand(-1, kept, -1))


def smooth_blobs(n: int, size: int, generator: torch.Generator) -> Tensor:
    """6 x 6 uniform noise upsampled bicubically, (n, 3, size, size) in [0, 1]."""
    noise = torch.rand(n, 3, 6, 6, generator=generator)
    return nn.functional.interpolate(noise, size=size, mode="bicubic").clamp(0, 1)
