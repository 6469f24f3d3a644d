"""One detector and one model shared by sixteen threads: every answer is the one given alone."""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import Detector
from gradgeo.errors import GradgeoWarning, UnusableInputWarning
from helpers.nets import OneByOne

THREADS = 16


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Threads take turns a thousand times more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What the calls give, each in a thread of its own, begun together; an exception of one is raised."""
    start, found = threading.Barrier(len(calls)), [None] * len(calls)

    def run(i: int) -> None:
        start.wait()
        try:
            found[i] = calls[i]()
        except BaseException as error:  # to be raised where it is seen
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.Tanh())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Remembering(Convolutional):
    """Keeps what it is doing in itself, as many models do that someone has looked into."""

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.body(x)
        self.sizes = [len(x)]
        self.features = self.features.mean((2, 3))
        assert self.sizes == [len(x)]
        return self.head(self.features)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(36, 9, batch_first=True), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.flatten(2))[0][:, -1])


class Unbatchable(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(OneByOne.apply(x))


X = torch.rand(120, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def parts(result: Any) -> Any:
    """An answer as something that `==` compares, NaN and all."""
    if isinstance(result, Tensor):
        return str(result.dtype), result.nan_to_num(-7).tolist()
    if isinstance(result, list):
        return [str(each) for each in result]
    if isinstance(result, gradgeo.detector.results.Judgement):
        tensors = [*vars(result.predictions).values(), result.logits, *result.evidence.values()]
        return [*map(parts, tensors), {row: str(e) for row, e in result.explanations.items()}]
    return [parts(value) for value in vars(result).values()]


@pytest.mark.simulation
@pytest.mark.parametrize(
    "kind", [Remembering, *(pytest.param(kind, marks=pytest.mark.simulation) for kind in (Convolutional, Recurrent))]
)
def test_answers_are_those_given_alone(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    detector = Detector(model, alpha=0.1).fit(X[:100])
    rows = [X[i : i + 1 + i % 4] for i in range(THREADS)]
    calls: list[Callable[[Tensor], Any]] = [
        detector.predict,
        lambda x: detector.judge(x, explain=True),
        detector.explain,
        lambda x: gradgeo.saliency_maps(model, x, sign=False),
        lambda x: gradgeo.csm(model, x),
        lambda x: gradgeo.zeta(model, x, directions=3),
    ]
    alone = [parts(call(x)) for call in calls for x in rows]
    gradgeo.csm(Convolutional(), X[:1])  # nothing is kept of the model but what is its own
    work = [lambda call=call, x=x: call(x) for call in calls for x in rows]
    together = at_once([lambda i=i: [parts(work[j]()) for j in range(i, len(work), THREADS)] for i in range(THREADS)])
    for i in range(THREADS):
        assert together[i] == alone[i::THREADS]


def test_the_first_calls_may_come_at_once() -> None:
    """Copying, folding and the trial of batching happen while others wait for them."""
    torch.manual_seed(0)
    model = Remembering().eval()
    expected = gradgeo.csm(model, X[:3])
    fresh = Remembering().eval()
    fresh.load_state_dict(model.state_dict())
    for found in at_once([lambda: gradgeo.csm(fresh, X[:3])] * THREADS):
        assert torch.equal(found, expected)


@pytest.mark.simulation
def test_fitting_at_once_gives_the_detectors_of_fitting_alone() -> None:
    torch.manual_seed(0)
    model = Remembering().eval()
    calls = [lambda seed=seed: Detector(model, alpha=0.1, evidence="fast", seed=seed).fit(X[:100]) for seed in range(8)]
    alone = [call().outlier_score(X) for call in calls]
    for detector, expected in zip(at_once(calls), alone, strict=True):
        assert torch.equal(detector.outlier_score(X), expected)


def test_warnings_are_neither_lost_nor_left_changed() -> None:
    bad = X[:2].clone()
    bad[1] = torch.nan
    torch.manual_seed(0)
    models = [Unbatchable(nn.Flatten(), nn.Linear(72, 5)).eval() for _ in range(THREADS)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters, shown = list(warnings.filters), warnings.showwarning
        at_once([lambda model=model: gradgeo.csm(model, bad) for model in models])
        assert warnings.filters == filters
        assert warnings.showwarning is shown
    unusable = [w for w in caught if w.category is UnusableInputWarning]
    slow = [w for w in caught if w.category is GradgeoWarning and "one by one" in str(w.message)]
    assert len(unusable) == THREADS
    assert len(slow) == THREADS


def test_saving_at_once_leaves_whole_files_and_the_mode_of_new_files_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = Detector(Convolutional().eval(), alpha=0.1, evidence="paper").fit(X[:100])
    before = os.umask(0o027)
    try:

        def save(i: int) -> None:
            for _ in range(5):
                detector.save(tmp_path / f"{i % 2}.gradgeo")
                (tmp_path / f"beside-{i}").touch()

        at_once([lambda i=i: save(i) for i in range(THREADS)])
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert len(list(tmp_path.iterdir())) == 2 + THREADS
    assert torch.equal(
        Detector.load(tmp_path / "0.gradgeo", detector.model).outlier_score(X), detector.outlier_score(X)
    )
