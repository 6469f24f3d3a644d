"""The graphs of a classifier give autograd's gradients; graphs that do not are refused, on every processor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgeo.classifier.wrapper import Classifier
from gradgeo.errors import ExportError
from gradgeo.export import gradient_check, rules, traced
from gradgeo.export.gradient_check import verify_gradients
from gradgeo.export.traced import TracedClassifier
from helpers.nets import pooled

pytestmark = [
    pytest.mark.skipif(not callable(torch.export.Dim.DYNAMIC), reason="this torch is too old to export"),
    pytest.mark.rounding,
]


def flat(*layers: nn.Module, features: int, classes: int = 3) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))


class Slices(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, 1::2, ::3], x[:, :, :3, 2:5], x[:, :, -4:-1, :3]], 3) * 2 + x[:, :, 2:5, 3, None]


class Last(nn.Module):
    """The state of a recurrent layer after the last step, (N, steps, width) -> (N, hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]


class Merged(nn.Module):
    """Steps first and merged with the batch, so that rows of one input do not lie together."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1)
        h = torch.tanh(self.layer(steps.flatten(0, 1)))
        return (h * h).view(steps.shape).mean(0)


class Own(nn.Module):
    """Computes in float32 whatever it is brought to, by a matrix that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1) @ torch.eye(12).roll(1, 0))


class Guesses(Own):
    """Draws random numbers at every call."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(nn.functional.dropout(x, 0.5, training=True))


class Compares(Own):
    """Sees each input against the others of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - x.mean(0, keepdim=True))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (
        lambda: flat(
            nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1, bias=False),
            nn.BatchNorm2d(6), nn.Hardswish(), nn.Conv2d(6, 4, 3, dilation=2, padding=3), nn.ELU(), features=168,
        ),
        (2, 9, 8),
    ),
    "normalisations that are not folded": (
        lambda: flat(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.MaxPool2d(2), features=96), (2, 10, 10)
    ),
    "transposed": (lambda: flat(nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), nn.SiLU(), features=300), (2, 5, 5)),
    "max pools": (
        lambda: flat(nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True), features=8), (2, 11, 13),
    ),
    "average pools": (
        lambda: flat(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
                     nn.AdaptiveAvgPool2d((3, 2)), features=12), (2, 11, 13),
    ),
    "volumes": (lambda: flat(nn.Conv3d(1, 2, 3), nn.GELU(), nn.MaxPool3d(2), features=16), (1, 6, 7, 6)),
    "signal": (
        lambda: flat(nn.Conv1d(2, 4, 5, 2), nn.Softplus(), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(3), features=12), (2, 21)
    ),
    "norms": (
        lambda: flat(nn.GroupNorm(2, 4), nn.Tanh(), nn.InstanceNorm2d(4), nn.PReLU(), nn.LayerNorm(5), features=100),
        (4, 5, 5),
    ),
    "slices and pads": (
        lambda: flat(Slices(), nn.ReflectionPad2d(1), nn.Upsample(scale_factor=2, mode="bilinear"), features=440), (2, 6, 7)
    ),
    "attention": (lambda: flat(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), features=40), (5, 8)),
    "recurrent": (lambda: nn.Sequential(Last(), nn.Linear(5, 3)), (6, 4)),
    "many classes of few features": (lambda: nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 9)), (7,)),
}  # fmt: skip


@pytest.fixture
def only_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing passes by the comparison in float32."""
    monkeypatch.setitem(gradient_check.TOLERANCES, torch.float32, -1.0)


def checked(model: nn.Module, x: Tensor) -> TracedClassifier:
    classifier = Classifier(model.eval())
    found = TracedClassifier.of(classifier, x[:4])
    verify_gradients(found, classifier, x)
    return found


@pytest.mark.export
@pytest.mark.grid
@pytest.mark.usefixtures("only_in_float64")
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_the_graphs_are_those_of_autograd(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    assert checked(make(), torch.randn(6, *shape)).graphs.tiles


@pytest.mark.export
@pytest.mark.usefixtures("only_in_float64")
def test_rows_that_do_not_lie_together_go_one_by_one() -> None:
    torch.manual_seed(0)
    assert not checked(nn.Sequential(Merged(), nn.Linear(4, 3)), torch.randn(6, 5, 4)).graphs.tiles


FRAMES: dict[str, Callable[[], Tensor]] = {
    "noise": lambda: torch.rand(64, 3, 32, 32),
    "of one colour": lambda: torch.rand(8, 3, 1, 1).expand(8, 3, 32, 32),
    "nearly of one colour": lambda: torch.rand(8, 3, 1, 1) + torch.rand(8, 3, 32, 32) * 1e-6,
    "black": lambda: torch.zeros(8, 3, 32, 32),
}


@pytest.mark.export
@pytest.mark.grid
@pytest.mark.usefixtures("only_in_float64")
@pytest.mark.parametrize("frames", FRAMES)
def test_units_within_rounding_of_a_kink_are_no_reason_to_refuse(frames: str) -> None:
    model = pooled()
    torch.manual_seed(1)
    assert checked(model, FRAMES[frames]()).graphs.tiles


@pytest.mark.export
def test_what_does_not_compute_in_float64_is_compared_in_its_own_type() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 12)
    checked(Own(), x)
    weight = torch.randn(12, 3)
    classifier = Classifier(lambda x: torch.relu(x @ weight))
    verify_gradients(TracedClassifier.of(classifier, x), classifier, x)


def _whole_window(cotangent: Tensor, x: Tensor, kernel: list[int], *options: Any) -> Tensor:
    """A max pool that pulls back to every entry of a window, not to the largest."""
    return rules._blown_up(cotangent, kernel, *x.shape[2:])


def _not_turned(cotangent: Tensor, x: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, None, None]:
    """A convolution of the kernel as it stands."""
    return torch.conv2d(cotangent, weight.transpose(0, 1), None, 1, 1), None, None


WRONG: dict[str, dict[Any, Callable[..., Any]]] = {
    "a slope of a thousandth too much": {
        rules.aten.threshold_backward.default: lambda v, x, threshold: v * (x > threshold).to(v.dtype) * 1.001
    },
    "a slope of one half where there is none": {
        rules.aten.threshold_backward.default: lambda v, x, threshold: v * (0.5 + 0.5 * (x > threshold).to(v.dtype))
    },
    "what is not linear in the cotangent": {
        rules.aten.threshold_backward.default: lambda v, x, threshold: v.abs() * (x > threshold).to(v.dtype)
    },
    "every entry of a window": {rules.aten.max_pool2d_with_indices_backward.default: _whole_window},
    "a kernel not turned around": {rules.aten.convolution_backward.default: _not_turned},
}


@pytest.mark.export
@pytest.mark.grid
@pytest.mark.parametrize("what", WRONG)
def test_a_graph_whose_gradients_are_wrong_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = traced.backward_rules
    monkeypatch.setattr(traced, "backward_rules", lambda known: right(known) | WRONG[what])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ExportError, match="traced gradients of the model are not those of autograd"):
        checked(model, torch.randn(8, 2, 8, 8))


@pytest.mark.export
def test_a_graph_that_is_wrong_for_one_input_of_eight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right, threshold = traced.backward_rules, rules.aten.threshold_backward.default
    monkeypatch.setattr(
        traced,
        "backward_rules",
        lambda known: right(known) | {threshold: lambda v, x, zero: v * (x > zero).to(v.dtype) * (1 + (x > 20))},
    )
    torch.manual_seed(0)
    x = torch.randn(8, 12)
    x[0] *= 100
    with pytest.raises(ExportError, match="traced gradients of the model are not those of autograd"):
        checked(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)), x)


@pytest.mark.export
@pytest.mark.parametrize("model", [Guesses, Compares])
def test_answers_that_depend_on_more_than_the_input_are_refused(model: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    with pytest.raises(ExportError, match=r"not those of autograd.*random numbers|inputs of a batch with each other"):
        checked(model(), torch.randn(8, 12))
