import subprocess
import sys

import numpy as np
import pytest
import torch

from gradgeo import errors
from gradgeo.errors import ArgumentError, class_labels, describe, is_finite, is_integer, one_line


def test_describe_shows_shape_and_kind_but_no_content() -> None:
    assert describe(torch.zeros(2, 3)) == "a tensor of shape (2, 3), torch.float32 on cpu"
    assert describe(np.zeros((2, 3))) == "an array of shape (2, 3), float64"
    assert describe([1, 2]) == "a list of length 2"
    assert describe(1j) == "a complex"
    assert describe("text") == "'text'"


def test_the_module_imports_neither_torch_nor_numpy() -> None:
    """`gradgeo --help` imports it, and is to answer at once."""
    code = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('alone', {errors.__file__!r}); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "print(module.describe([1]), 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a list of length 1 False False\n"


@pytest.mark.parametrize(("value", "integer", "finite"), [(3, True, True), (3.0, False, True), (True, False, False)])
def test_numbers(value: object, integer: bool, finite: bool) -> None:
    assert (is_integer(value), is_finite(value)) == (integer, finite)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 10**400, "1", None, 1j])
def test_not_finite(value: object) -> None:
    assert not is_finite(value)


def test_positive_numbers_return_the_value_or_name_the_argument() -> None:
    assert errors.positive_integer("steps", 2) == 2
    assert errors.positive_number("epsilon", 1) == 1.0
    with pytest.raises(ArgumentError, match="expected steps to be a positive integer, got 0"):
        errors.positive_integer("steps", 0)
    with pytest.raises(ArgumentError, match="expected epsilon to be a positive number, got nan"):
        errors.positive_number("epsilon", float("nan"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0]), r"expected labels to be an integer tensor of shape \(1,\), got a tensor"),
        ([0], r"expected labels to be an integer tensor of shape \(1,\), got a list of length 1"),
        (torch.tensor([0, 1]), r"expected labels to be of shape \(1,\), one class per input"),
        (torch.tensor([3]), r"expected labels to be within 0..2 \(the model has 3 classes\), got '3..3'"),
    ],
)
def test_class_labels(labels: torch.Tensor, message: str) -> None:
    assert class_labels(torch.tensor([2], dtype=torch.uint8), 1, 3).dtype == torch.int64
    with pytest.raises(ArgumentError, match=message):
        class_labels(labels, 1, 3)


def test_one_line_escapes_surrogates_and_ends() -> None:
    assert one_line("ä\udc80") == "ä\\udc80"
    assert one_line("a\nb\x1b[0m") == "a\\nb\\x1b[0m"
    assert len(one_line("x" * 10_000)) < 1100
