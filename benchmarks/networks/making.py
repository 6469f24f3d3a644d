"""How a network of the laboratory is made: trained once by code kept here, then found by a hash of code and data."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.networks.training import accuracy_of, reproducible
from gradgeo._files import atomic_stream
from gradgeo.bench import cache as bench_cache
from gradgeo.bench.classifier_under_test import ClassifierUnderTest

CODE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Network:
    """A classifier that is made here, and its held-out inputs. `folder` is the one with data/ and models/."""

    kind: str
    """As the table of networks calls it."""
    trained_on: str
    """In words, with what it is tested on."""
    licence: str
    """Of its data and of weights that are not made here."""
    module: str
    """The file here whose code the weights depend on."""
    files: Callable[[Path], list[Path]]
    """The files that they depend on."""
    build: Callable[[Path], nn.Module]
    """The architecture, with random weights or those of another's."""
    train: Callable[[nn.Module, Path, int | None], dict[str, Tensor]]
    """Trains it in place and returns the weights to keep; with a number on as many inputs, as a check that it runs."""
    held_out: Callable[[nn.Module, Path, int | None], tuple[Tensor, Tensor]]
    """Inputs (N, *input) and their classes (N,), in random order, or the first of them."""
    half: int
    """How many of them a detector may be fitted on."""
    fit: int | None = 500
    """How many trusted ones it is fitted on where nothing else is said; None for all."""
    size: int = 1000
    """Inputs in a scenario at most: fewer where a pass is costly."""
    budgets: tuple[float, ...] = (8 / 255, 2 / 255, 1 / 255)
    """As in `ClassifierUnderTest`."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """As in `ClassifierUnderTest`."""
    channel_axis: int = 1
    """As in `ClassifierUnderTest`."""
    near: tuple[str, ...] = ()
    """Public data sets of other classes of data like its own."""
    far: tuple[str, ...] = ()
    """Public data sets of another sort."""
    without: tuple[str, ...] = ()
    """Scenarios of every classifier that make no sense for it, or cost too much."""
    in_battery: bool = True
    """Whether it is measured where no networks are named."""


@dataclass(frozen=True)
class Made:
    """A network with its weights, and what making it took."""

    model: nn.Module
    """In eval mode."""
    accuracy: float | None
    """The share of its held-out inputs that it gets right; None where they have no labels."""
    cpu_seconds: float
    """Of training and of measuring the accuracy."""
    parameters: int
    """How many it has."""
    shape: list[int]
    """Of an input."""
    classes: int
    """How many it tells apart."""


def made(name: str, network: Network, folder: Path, few: int | None = None) -> Made:
    """The network, trained now or found in the cache.

    The weights are the same for every run on one machine. A run that is killed leaves no half of a file.

    Args:
        few: train and test on this many inputs only, for one epoch: a check that it runs.
    """
    path = bench_cache.CACHE.parent / "networks" / f"{name}-{_key(name, network, folder, few)}.safetensors"
    if not path.exists():
        start = time.process_time()
        with reproducible():
            model = network.build(folder)
            weights = {key: value.detach().contiguous() for key, value in network.train(model, folder, few).items()}
            x, y = network.held_out(model.eval(), folder, few)
            accuracy = accuracy_of(model, x, y)
            facts = {
                "accuracy": accuracy,
                "cpu_seconds": time.process_time() - start,
                "parameters": sum(p.numel() for p in model.parameters()),
                "shape": list(x.shape[1:]),
                "classes": model(x[:2]).shape[1],
            }
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_stream(path) as stream:
            stream.write(save(weights, {"facts": json.dumps(facts)}))
    with reproducible():
        model = network.build(folder)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        # A probe keeps its head alone: the rest is what `build` gives.
        left = model.load_state_dict({key: file.get_tensor(key) for key in file.keys()}, strict=False)  # noqa: SIM118
    assert not left.unexpected_keys, left
    return Made(model.eval().requires_grad_(False), **facts)


def under_test(name: str, network: Network, folder: Path) -> ClassifierUnderTest:
    """The classifier with its held-out inputs; all trusted ones of the first part are there to be fitted on."""
    model = made(name, network, folder).model
    x, y = network.held_out(model, folder, None)
    space = network.budgets, network.bounds
    return ClassifierUnderTest(name, model, x, y, network.half, *space, channel_axis=network.channel_axis)


def fitted_on(classifier: ClassifierUnderTest, size: int | None, name: str) -> ClassifierUnderTest:
    """The same classifier by another name, with as many trusted inputs to fit on; None for all."""
    right = classifier.correct[: classifier.half].nonzero()[:, 0]
    half = classifier.half if size is None or size >= len(right) else int(right[size - 1]) + 1
    kept = torch.cat([torch.arange(half), torch.arange(classifier.half, len(classifier.x))])
    found = replace(classifier, name=name, x=classifier.x[kept], y=classifier.y[kept], half=half)
    found.__dict__["logits"] = classifier.logits[kept]  # what its cached property would compute again
    return found


def _key(name: str, network: Network, folder: Path, few: int | None) -> str:
    code = bench_cache.hash_of_code(CODE, ("training.py", "reading.py", "catalogues.py", network.module))
    parts = [name, few, code, torch.__version__, [_digest(file) for file in network.files(folder)]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else file.name  # a name on a hub
