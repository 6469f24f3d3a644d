import numpy as np
import pytest
import torch

import gradgeo
from gradgeo.errors import ArgumentError


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
