"""A batch is checked and cleaned once, and nothing of the caller's is copied without need or changed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import Detector
from gradgeo.classifier import prepared
from gradgeo.classifier.prepared import clean
from gradgeo.classifier.wrapper import Classifier


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)).eval()


def inputs(n: int) -> Tensor:
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1))


CALLS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "saliency_maps": gradgeo.saliency_maps,
    "csm": gradgeo.csm,
    "csm in chunks": lambda model, x: gradgeo.csm(model, x, chunk_size=2),
    "logits": lambda model, x: Classifier(model).logits(x),
}


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a batch was prepared and how often cleaned."""
    counted = {"prepare": 0, "clean": 0}

    def watched(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            counted[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Classifier, "prepare", watched("prepare", Classifier.prepare))
    monkeypatch.setattr(prepared, "_finite_rows", watched("clean", prepared._finite_rows))
    return counted


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_prepares_and_cleans_its_batch_once(
    call: Callable[[nn.Module, Tensor], object], count: dict[str, int]
) -> None:
    call(network(), inputs(7))
    assert count == {"prepare": 1, "clean": 1}


def test_a_prediction_prepares_and_cleans_each_batch_once(count: dict[str, int]) -> None:
    detector = Detector(network(), evidence="paper", batch_size=5).fit(inputs(120))
    count.update(prepare=0, clean=0)
    detector.predict(inputs(15))
    assert count == {"prepare": 3, "clean": 3}


def test_usable_batches_are_not_copied() -> None:
    x = inputs(5)
    batch = Classifier(network()).prepare(x)
    assert batch.x.data_ptr() == x.data_ptr()
    assert batch.usable.all()
    assert len(batch[1:3]) == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("traced", [False, True])
def test_unusable_rows_are_zeros_in_a_copy(value: float, *, traced: bool) -> None:
    x = inputs(300)
    x[[0, 299], 1, 0, 1] = value
    before = x.clone()
    batch = clean(x, traced=traced)
    assert torch.equal(x.nan_to_num(), before.nan_to_num())
    assert batch.usable.logical_not().nonzero()[:, 0].tolist() == [0, 299]
    assert not batch.x[[0, 299]].any()
    assert torch.equal(batch.x[1:299], x[1:299])


def test_what_was_made_in_inference_mode_can_be_differentiated() -> None:
    with torch.inference_mode():
        batch = clean(inputs(3))
    assert not batch.x.is_inference()
