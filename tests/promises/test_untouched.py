"""A thousand random calls of the public functions, many of them wrong: the caller's side is as before after each."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import Detector, attacks
from gradgeo.bench.penultimate import Penultimate
from gradgeo.errors import GradgeoError
from helpers.untouched import same, state

CALLS = 1000


class Fails(torch.autograd.Function):
    """Fails on its way back where asked to."""

    now = False

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, above: Tensor) -> Tensor:
        if Fails.now:
            raise RuntimeError("a backward pass that fails")
        return above


class Model(nn.Module):
    """All that a call could leave changed: modes, statistics, gradients, hooks, buffers, a draw of random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5)
        self.head = nn.Linear(12, 4)
        self.register_buffer("calls", torch.zeros(1))
        self.fails = ""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.fails == "forward":
            raise ValueError("a forward pass that fails")
        h = self.drop(torch.relu(self.norm(self.conv(Fails.apply(x)))))
        logits = self.head(h.flatten(1) + 1e-4 * torch.randn(1))
        return logits * torch.nan if self.fails == "nan" else logits


class Chance:
    """Arguments, some of them wrong."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def of(self, *values: Any) -> Any:
        return self._rng.choice(values)

    def seldom(self, wrong: Any, right: Any) -> Any:
        return wrong if self._rng.random() < 0.06 else right

    def maps(self) -> dict[str, Any]:
        options: dict[str, Callable[[], Any]] = {
            "loss": lambda: self.of("cross_entropy", "mse", "logit", "nll"),
            "temperature": lambda: self.of(None, 0.5, 10.0, 0.0, "hot"),
            "classes": lambda: self.of(None, 2, 3, 99, torch.tensor([0, 2]), [1, 1], "all"),
            "sign": lambda: self.of(True, False),
            "chunk_size": lambda: self.of(None, 1, 2, 0),
            "rescale": lambda: self.of(True, False),
        }
        return {name: options[name]() for name in options if self._rng.random() < 0.3}


def calls(model: Model, detector: Detector, folder: Path, x: Tensor, chance: Chance) -> dict[str, Callable[[], object]]:
    labels = chance.seldom(torch.full((len(x),), 9), torch.zeros(len(x), dtype=torch.long))
    path = folder / "detector.gradgeo"
    simple = nn.Sequential(model.conv, nn.Flatten(), model.head)  # what `tap` can trace
    attack = {"epsilon": chance.seldom(-1.0, 0.1), "bounds": chance.of(None, (0.0, 1.0), (1.0, 0.0))}
    zeta_options = {
        "radius": chance.seldom(0.0, 0.01),
        "directions": chance.of(1, 2, -1),
        "labels": chance.of(None, labels),
    }
    short = {name: value for name, value in chance.maps().items() if name in ("loss", "temperature")}
    return {
        "maps": lambda: gradgeo.saliency_maps(model, x, **chance.maps()),
        "csm": lambda: gradgeo.csm(model, x, **chance.maps()),
        "matrix": lambda: gradgeo.cosine_similarity_matrix(x),
        "statistics": lambda: gradgeo.csm_statistics(X[:2, 0, :3, :3], chance.of(torch.tensor([0, 2]), torch.tensor([7, 0]))),
        "zeta": lambda: gradgeo.zeta(model, x, **zeta_options, **short),
        "curvature": lambda: gradgeo.directional_curvature(model, x, **zeta_options),
        "minimum": lambda: gradgeo.local_minimum(model, x, labels, radius=chance.of(0.01, -1)),
        "penultimate": lambda: Penultimate(model, x)(x),
        "tap": lambda: gradgeo.tap(chance.of(model, simple), chance.seldom("none", "0"), x)[0](X[:3]),
        "detector": lambda: Detector(model, alpha=chance.of(0.1, 2), evidence=chance.of("fast", "paper", ["csm"], "none")),
        "fit": lambda: Detector(model, alpha=0.2, evidence="paper").fit(X[: chance.of(5, 5, 5, 40)], chance.of(None, [1, 2])),
        "predict": lambda: detector.predict(x),
        "judge": lambda: detector.judge(x, explain=chance.of(True, False)),
        "explain": lambda: detector.explain(x),
        "p_value": lambda: detector.p_value(chance.of(x.numpy(), x, [1.0])),
        "save": lambda: detector.save(chance.of(path, folder / "absent" / "x"), notes=chance.of(None, {}, {"a": object()})),
        "load": lambda: Detector.load(chance.of(path, folder / "none", folder / "other"), model, strict=chance.of(True, False)),
        "guard": lambda: gradgeo.guard(model, detector, on_untrusted=chance.of("flag", "raise", "shout"))(x),
        "fgsm": lambda: attacks.fgsm(model, x, labels, **attack),
        "pgd": lambda: attacks.pgd(model, x, labels, steps=chance.of(1, 2, 0), **attack),
        "csa": lambda: attacks.csa(model, x, labels, steps=1, **attack),
        "minimum_norm": lambda: attacks.minimum_norm(model, x, labels, steps=1),
    }  # fmt: skip


X = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.simulation
def test_a_thousand_calls_leave_no_trace(tmp_path: Path) -> None:
    """In a process of its own: beside threads, as earlier tests may leave, nobody puts the random state back."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]


def a_thousand_calls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    chance, model = Chance(0), Model()
    detector = Detector(model, alpha=0.2, evidence="fast").fit(X)
    detector.save(tmp_path / "detector.gradgeo")
    (tmp_path / "other").write_bytes(b"something else")
    seen: list[nn.Module] = []
    model.register_forward_hook(lambda module, *_: seen.append(module))
    model.head.register_forward_pre_hook(lambda module, *_: seen.append(module))
    model.conv.register_full_backward_hook(lambda module, *_: seen.append(module))
    model(X[:3]).sum().backward()
    own, after = set(model.modules()), len(seen)
    model.conv.requires_grad_(False)
    failed, done = 0, set()
    for number in range(CALLS):
        model.train(chance.of(True, False))
        model.norm.train(chance.of(True, False))
        model.fails, Fails.now = chance.seldom(chance.of("forward", "nan"), ""), chance.seldom(True, False)
        x = chance.of(
            X[:1], X[:3], X[:3], X[:0], X[:2].double(), X[:2, :, :3], X[0], torch.zeros(2, 1, 4, 4, dtype=torch.long)
        )
        x = x.clone()
        if x.is_floating_point() and x.numel():
            x.view(-1)[0] = chance.seldom(torch.nan, 0.5)
            x.requires_grad_(chance.seldom(True, False))
        context = chance.of(torch.enable_grad, torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu"))
        with context():
            table = calls(model, detector, tmp_path, x, chance)
            name = chance.of(*table)
            before = state(model, x)
            try:
                table[name]()
                done.add(name)
            except GradgeoError:
                failed += 1
            except Exception as error:
                raise AssertionError(f"call {number}, {name}: {type(error).__name__}: {error}") from error
            changed = [pair for pair in zip(before, state(model, x), strict=True) if not same(*pair)]
            assert not changed, f"call {number}, {name}"
    assert len(seen) > after + 100
    assert not own.intersection(seen[after:])  # hooks act on the private copy: they may be part of what it computes
    assert done == set(table)
    assert 150 < failed < 850


if __name__ == "__main__":
    a_thousand_calls(Path(sys.argv[1]))
