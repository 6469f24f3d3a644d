"""Functions that ONNX does not have, written in terms that it has, are the functions themselves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradgeo.export import plain_forms


@pytest.mark.parametrize(
    ("func", "arguments"),
    [
        (torch.special.ndtri, (torch.tensor([0, 1e-300, 1e-20, 1e-9, 0.1, 0.4, 0.5, 0.7, 0.99, 1, 2]).double(),)),
        (torch.median, (torch.tensor([[3.0, 1.0, 2.0, 2.0], [1.0, torch.nan, 0.0, 2.0]]), 1)),
        (torch.diagonal_scatter, (torch.rand(2, 3, 3), torch.ones(2, 3), 0, 1, 2)),
        (torch.triu_indices, (1, 1, 1)),
        (torch.triu_indices, (4, 4, 1)),
        (torch.triu_indices, (3, 5, -1)),
        (torch.searchsorted, (torch.tensor([[0.0, 1.0, 1.0, 2.0]]), torch.tensor([[-1.0, 0.0, 1.0, 1.5, 3.0]]))),
    ],
)
def test_plain_forms_are_the_functions_themselves(func: Callable[..., Tensor], arguments: tuple[object, ...]) -> None:
    known = func(*arguments)
    with plain_forms.PlainForms():
        found = func(*arguments)
    if func is torch.median:
        known, found = known.values, found.values
    assert torch.allclose(found, known, rtol=1e-14, equal_nan=True)
