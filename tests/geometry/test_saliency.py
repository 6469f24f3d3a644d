import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.errors import ArgumentError, GradgeoWarning
from gradgeo.geometry.autograd import AutogradJacobian
from helpers.folding import Residual, trained


def model(x):
    return 3 * x.flatten(1)[:, :5].square()


@pytest.mark.parametrize(
    "classes",
    [
        "all",
        "",
        b"12",
        1.5,
        ["a", "b"],
        [None],
        {},
        {0, 1},
        [[0], [1, 2]],
        [0.0, 1.0],
        [True, False],
        1j,
        pytest.param(object(), id="object"),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", [gradgeo.csm, gradgeo.saliency_maps])
def test_classes_that_are_none(call, classes):
    rule = (
        rf"{call.__name__}: expected classes to be None, an int, or an integer tensor of shape \(K,\) or \(N, K\), got "
    )
    with pytest.raises(ArgumentError, match=rule):
        call(model, torch.rand(3, 6), classes=classes)


def test_classes_none_is_all_of_them():
    assert gradgeo.csm(model, torch.rand(3, 6), classes=None).shape == (3, 5, 5)


@pytest.mark.parametrize("kind", [torch.Tensor.tolist, np.asarray, lambda t: t.to(torch.uint8)])
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("chosen", [[1, 3], [[0, 1], [4, 2], [3, 1]]])
def test_classes_as_lists_and_arrays(kind, chosen, chunk_size):
    x, chosen = torch.rand(3, 6), torch.tensor(chosen)
    maps = gradgeo.saliency_maps(model, x, classes=kind(chosen), chunk_size=chunk_size)
    assert torch.equal(maps, gradgeo.saliency_maps(model, x, classes=chosen))


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("sign", [False, True])
def test_screening_in_bfloat16_is_near_and_rounds_the_gradients_alone(
    case: tuple[nn.Module, Tensor], classes: int | None, sign: bool
) -> None:
    model, x = case
    x[1].flatten()[0] = torch.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for call in (gradgeo.saliency_maps, gradgeo.csm):
        for precision in ("float32", "bfloat16"):
            with pytest.warns(GradgeoWarning, match="1 of 9"):
                found.append(call(model, x, sign=sign, classes=classes, precision=precision))
    maps, rounded, exact, ours = found
    assert rounded.dtype == ours.dtype == torch.float32
    assert torch.equal(rounded.isnan(), maps.isnan())
    assert torch.equal(ours.isnan(), exact.isnan())
    off = (rounded - maps).nan_to_num(0).abs()
    assert 0 < off.mean() <= (0.1 if sign else 0.02 * maps.nan_to_num(0).abs().max())
    assert 0 < (ours - exact).nan_to_num(0).abs().mean() <= 0.05
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_screening_keeps_the_logits_and_the_types_of_the_model(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    passes = []
    for precision in ("float32", "bfloat16"):
        with preserve_state(x):
            classifier = Classifier.of(model)
            batch = classifier.prepare(x)
            passes.append(AutogradJacobian(classifier.optimized(batch, precision), batch))
    for name in ("logits", "features", "x"):
        assert torch.equal(*(getattr(forward, name) for forward in passes)), name
    assert gradgeo.csm(model.double(), x, precision="bfloat16").dtype == torch.float64


def test_precisions_that_are_none() -> None:
    model, x = trained(Residual()), torch.rand(2, 3, 9, 8)
    for call in (gradgeo.csm, gradgeo.saliency_maps):
        with pytest.raises(ArgumentError, match="expected precision to be one of 'float32', 'bfloat16', got 'half'"):
            call(model, x, precision="half")
        with pytest.raises(ArgumentError, match="expected precision to be 'float32' for a function"):
            call(lambda x: model(x), x, precision="bfloat16")
