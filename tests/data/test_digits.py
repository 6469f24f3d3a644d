"""The digits and the classifier that is shipped for them."""

from pathlib import Path

import pytest
import torch

from benchmarks import digits as training
from gradgeo import demo
from gradgeo.data import digits


def test_the_three_parts_are_disjoint_and_always_the_same() -> None:
    parts = digits.split()
    assert {name: len(x) for name, (x, _) in parts.items()} == {"train": 700, "fit": 700, "test": 397}
    assert parts["test"][1][:8].tolist() == digits.split()["test"][1][:8].tolist()
    assert sum(len(y) for _, y in parts.values()) == 1797


def test_the_classifier_is_good_frozen_and_in_eval_mode() -> None:
    model = digits.digits_classifier()
    x, y = digits.split()["test"]
    assert (model(x).argmax(1) == y).float().mean() > 0.98
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert demo.digits_classifier is digits.digits_classifier


def test_loading_it_draws_no_random_numbers_and_trains_nothing() -> None:
    state = torch.random.get_rng_state()
    first, second = digits.digits_classifier(), digits.digits_classifier()
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert value.data_ptr() != second.state_dict()[name].data_ptr()  # each caller has weights of their own


def test_the_shipped_weights_are_small() -> None:
    assert digits.WEIGHTS.stat().st_size < 250_000


@pytest.mark.simulation
def test_training_again_gives_the_same_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A full training takes seconds, and its weights depend on the processor: `python -m benchmarks.digits` makes them."""
    net = training.train(epochs=3)
    assert net.state_dict().keys() == digits.digits_classifier().state_dict().keys()
    x, y = digits.split()["test"]
    assert (net(x).argmax(1) == y).float().mean() > 0.8
