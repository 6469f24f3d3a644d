"""A device without memory left makes passes smaller, and nothing else: results stay, one warning says so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import Detector
from gradgeo.classifier.microbatch import AdaptiveBatch, out_of_memory
from gradgeo.errors import GradgeoWarning, ModelError

X = torch.rand(80, 6, generator=torch.Generator().manual_seed(0)).double()


class Backward(torch.autograd.Function):
    """What goes back through it must be of few rows, however many cotangents come at once."""

    most = 0

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Tensor:
        if len(above) > Backward.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return above.clone()

    @staticmethod
    def vmap(info: Any, dims: Any, above: Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")


class Small(nn.Module):
    """Takes at most `forward_rows` rows forward and `backward_rows` back."""

    def __init__(self, forward_rows: int, backward_rows: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double().eval()
        for parameter in self.body.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        self.rows = forward_rows
        self.error = error
        Backward.most = backward_rows

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.rows:
            raise self.error("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")
        return self.body(Backward.apply(x) if x.requires_grad else x)


CALLS: dict[str, Callable[[nn.Module], Tensor]] = {
    "maps": lambda model: gradgeo.saliency_maps(model, X, sign=False),
    "csm": lambda model: gradgeo.csm(model, X, sign=False),
    "zeta": lambda model: gradgeo.zeta(model, X, directions=3),
    "chunks": lambda model: gradgeo.csm(model, X, sign=False, chunk_size=50),
}


@pytest.mark.grid
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
@pytest.mark.parametrize(("forward", "backward"), [(9, 1000), (1000, 9), (1, 1)])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_results_stay_and_one_warning_says_so(
    call: Callable[[nn.Module], Tensor], forward: int, backward: int, error: type[Exception]
) -> None:
    expected = call(Small(1000, 1000))
    with pytest.warns(
        GradgeoWarning, match=r"too small for passes of (64|50) inputs; they were made with \d"
    ) as caught:
        found = call(Small(forward, backward, error))
    assert (found - expected).abs().max() < 1e-12
    assert len(caught) == 1


@pytest.mark.parametrize("evidence", ["full", "fast", "lite", "paper"])
def test_detectors_go_on(evidence: str) -> None:
    model = Small(1000, 1000)
    detector = Detector(model, alpha=0.2, evidence=evidence).fit(X[:60])
    expected = detector.outlier_score(X[:20])
    for rows in (8, 1):
        model.rows, Backward.most = rows, rows
        with pytest.warns(GradgeoWarning, match="the device's memory was too small"):
            found = detector.outlier_score(X[:20])
        assert (found - expected).abs().max() < 1e-6
    model.rows, Backward.most = 16, 16
    with pytest.warns(GradgeoWarning, match="the device's memory was too small"):
        again = Detector(model, alpha=0.2, evidence=evidence).fit(X[:60])
    assert (again.outlier_score(X[:1]) - expected[:1]).abs().max() < 1e-6


def test_where_one_input_is_too_much_the_message_says_how_much() -> None:
    for model in (Small(0, 1000), Small(1000, 0)):
        said = r"csm: the device's memory does not take a pass.* over a single input \(.*memory.*Name fewer"
        with pytest.raises(ModelError, match=said):
            gradgeo.csm(model, X)
    with pytest.raises(ModelError, match=r"a pass of about [\d,]+ bytes over a single input \(CUDA out of memory"):
        gradgeo.csm(Small(1000, 0), X[:1])


def test_other_failures_are_told_at_once() -> None:
    rows = []

    def run(part: slice) -> None:
        rows.append(part)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        list(AdaptiveBatch(8)(20, run))
    assert rows == [slice(0, 8)]
    assert not out_of_memory(ValueError("not enough memory"))


def test_passes_cover_every_row_once_and_stay_small() -> None:
    passes, taken = AdaptiveBatch(16), []

    def run(part: slice) -> range:
        if part.stop - part.start > 5:
            raise torch.OutOfMemoryError("full")
        taken.append(part.stop - part.start)
        return range(part.start, part.stop)

    assert [row for part in passes(37, run) for row in part] == list(range(37))
    assert taken[0] == 4
    assert max(taken) == 4
    assert [row for part in passes(3, run) for row in part] == list(range(3))
    assert list(AdaptiveBatch(4)(0, lambda part: part)) == [slice(0, 0)]
