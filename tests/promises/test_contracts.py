"""One body per promise, over one table of calls: no trace, a bad row, the form of messages, a missing extra, a full disk."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import Detector, attacks, report
from gradgeo.attacks.decision_path import decision_path
from gradgeo.bench.page import write as bench_page
from gradgeo.data import open_source
from gradgeo.data.models import load_model
from gradgeo.errors import GradgeoError, GradgeoWarning, MissingDependencyError
from gradgeo.report import plots
from gradgeo.scoring import score
from helpers.nets import inputs
from helpers.untouched import same, state

N, SHAPE = 5, (1, 4, 4)


class Net(nn.Module):
    """All that a call could leave changed: modes, statistics, gradients, a buffer, a draw of random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.head = (
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.Dropout(),
            nn.Linear(12, 4),
        )
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.drop(torch.tanh(self.norm(self.conv(x)))).flatten(1) + 1e-4 * torch.randn(1))


class Plain(Net):
    """The same without chance or count, so that rows can be compared between calls."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.conv(x))).flatten(1))


class Call(NamedTuple):
    """A public function of a model and a batch, and the arguments that it must refuse."""

    run: Callable[..., Any]
    wrong: dict[str, Any]
    rows: Callable[[Any], Tensor] | None = None
    """The part of the result that has a row for each input, if it is NaN where an input is."""


def labels(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.long)


def detector(model: nn.Module) -> Detector:
    return Detector(model, alpha=0.2, evidence="fast").fit(inputs(60, shape=SHAPE))


def of_detector(method: str) -> Callable[..., Any]:
    return lambda model, x, **options: getattr(detector(model), method)(x, **options)


def attack(name: str, **usual: Any) -> Callable[..., Any]:
    return lambda model, x, **options: getattr(attacks, name)(model, x, labels(x), **{**usual, **options})


def itself(result: Any) -> Any:
    return result


CALLS = {
    "saliency_maps": Call(gradgeo.saliency_maps, {"loss": "nll"}, itself),
    "csm": Call(gradgeo.csm, {"classes": 99}, itself),
    "zeta": Call(gradgeo.zeta, {"radius": 0}, itself),
    "directional_curvature": Call(gradgeo.directional_curvature, {"directions": 0}, itself),
    "local_minimum": Call(gradgeo.local_minimum, {"kind": "cauchy"}, lambda found: found.negative_share),
    "Detector.fit": Call(lambda model, x, **options: Detector(model, alpha=0.2, **options).fit(inputs(60, shape=SHAPE)), {"seed": -1}),
    "predict": Call(of_detector("predict"), {}, lambda found: found.p_value),
    "outlier_score": Call(of_detector("outlier_score"), {}, itself),
    "judge": Call(of_detector("judge"), {}, lambda found: found.logits),
    "explain": Call(of_detector("explain"), {}),
    "fgsm": Call(attack("fgsm", epsilon=0.1), {"epsilon": -1.0}),
    "pgd": Call(attack("pgd", epsilon=0.1, steps=2), {"steps": 0}),
    "csa": Call(attack("csa", epsilon=0.1, steps=1), {"bounds": (1.0, 0.0)}),
    "minimum_norm": Call(attack("minimum_norm", steps=1), {"steps": 0}),
    "evasion": Call(lambda model, x, **options: attacks.evasion(detector(model), x, labels(x), **{"epsilon": 0.1, "steps": 1, **options}), {"gradient": "guessed"}),
    "decision_path": Call(lambda model, x, **options: decision_path(model, x[0], 3 * x[-1], **{"points": 3, **options}), {"points": 1}),
}  # fmt: skip
each_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Libraries that a first fit imports have warning filters of their own to set, once."""
    detector(Plain().eval())


@pytest.mark.grid
@pytest.mark.filterwarnings("ignore::gradgeo.GradgeoWarning")
@each_call
@pytest.mark.parametrize("mode", ["train", "eval", "frozen", "refused"])
def test_a_call_leaves_no_trace(name: str, mode: str) -> None:
    model, x = Net(), inputs(N, shape=SHAPE)
    model(x).sum().backward()
    model.train(mode != "eval").requires_grad_(mode != "frozen")
    if mode == "train":
        model.norm.eval()  # a mixed mode, as when BatchNorm is frozen in fine-tuning
    before = state(model, x)
    try:
        CALLS[name].run(model, x[:, :, :3] if mode == "refused" else x)
    except GradgeoError:
        assert mode == "refused"
    else:
        assert mode != "refused" or name == "Detector.fit"  # which has inputs of its own here
    assert all(same(*pair) for pair in zip(before, state(model, x), strict=True))


@pytest.mark.grid
@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.rows])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_a_bad_row_is_nan_and_alone_with_one_warning(name: str, value: float) -> None:
    call, model, x = CALLS[name], Plain().eval(), inputs(N, shape=SHAPE)
    good = call.rows(call.run(model, x))
    x[3, 0, 1, 2] = value
    with pytest.warns(GradgeoWarning, match=f"^1 of {N} inputs") as caught:
        found = call.rows(call.run(model, x))
    assert len(caught) == 1
    assert caught[0].filename == __file__  # where the caller stands
    assert found[3].isnan().all()
    rest = [0, 1, 2, 4]
    assert torch.allclose(found[rest].double(), good[rest].double(), atol=1e-5)


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, call in CALLS.items() for option in call.wrong])
def test_a_wrong_argument_is_named_with_rule_and_value(name: str, option: str) -> None:
    call = CALLS[name]
    with pytest.raises(GradgeoError, match=rf"^(Detector|{name}): expected {option} to be .+, got .+"):
        call.run(Plain().eval(), inputs(N, shape=SHAPE), **call.wrong)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("Detector.fit", "decision_path")])
def test_inputs_that_are_none_are_refused_by_name(name: str) -> None:
    with pytest.raises(GradgeoError, match=r"^(Detector\.)?\w+: expected (x|data) to be .+, got .+"):
        CALLS[name].run(Plain().eval(), [{"a": 1.0}])


# Files and libraries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrays, the verdicts on them, and an empty file for each reader."""
    folder = tmp_path_factory.mktemp("contracts")
    np.save(folder / "x.npy", inputs(8, shape=SHAPE).numpy())
    score(detector(Plain().eval()), open_source(folder / "x.npy"), folder / "scores.parquet")
    for name in ("images/a.png", "a.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


MISSING: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "images": ("PIL.Image", "images", lambda folder: open_source(folder / "images")),
    "Parquet in": ("pyarrow", "parquet", lambda folder: open_source(folder / "a.parquet")),
    "Parquet out": ("pyarrow", "parquet", lambda folder: write_scores(folder, folder / "new.parquet")),
    "the hub": ("datasets", "hub", lambda folder: open_source("hf:a/b:test")),
    "torchvision": ("torchvision.models", "torchvision", lambda folder: load_model("torchvision:resnet18")),
    "timm": ("timm", "timm", lambda folder: load_model("timm:resnet18")),
    "plots": ("matplotlib", "plots", lambda folder: plots.csm(torch.eye(2))),
    "report": ("jinja2", "report", lambda folder: report.html(folder / "scores.parquet")),
    "the benchmark's page": ("jinja2", "bench", lambda folder: bench_page.html([])),
    "ONNX": ("onnxscript", "export", lambda folder: gradgeo.export.onnx(detector(Plain().eval()), inputs(2, shape=SHAPE), folder / "d.onnx")),
}  # fmt: skip
"""Library, extra, and a call that needs it."""


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_library_is_named_with_its_extra(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, extra, call = MISSING[name]
    before = sorted(folder.iterdir())
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf"is needed.*pip install '\.\[{extra}\]'"):
        call(folder)
    assert sorted(folder.iterdir()) == before


def write_scores(folder: Path, out: Path) -> None:
    score(detector(Plain().eval()), open_source(folder / "x.npy"), out)


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "d.gradgeo": lambda folder, out: detector(Plain().eval()).save(out),
    "s.csv": write_scores,
    "s.parquet": write_scores,
    "r.html": lambda folder, out: report.write(folder / "scores.parquet", out),
    "b.html": lambda folder, out: bench_page.write([], out.parent, out.stem),
}
"""By the file that is written."""


def no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_whole_or_as_before(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / name
    WRITERS[name](folder, out)
    assert out.stat().st_size > 0
    out.write_bytes(b"before")
    files = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(GradgeoError, match=r"^[\w.]+: cannot write .*: No space left on device"):
        WRITERS[name](folder, out)
    assert out.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".parts")} == files
