"""A classifier cut at an inner layer: the halves are the whole, and what cannot be cut is named."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from gradgeo import Detector, csm, saliency_maps, tap
from gradgeo.errors import ArgumentError, ModelError


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.norm(self.conv(x))).relu()


class Net(nn.Module):
    """With a skip, dropout, an optional argument and a weight that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.stages = nn.Sequential(Block(4), nn.ReLU(inplace=True), Block(4))
        self.drop = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.stem(x) * self.scale
        if mask is not None:
            x = x * mask
        x = self.stages(x)
        return {"logits": self.head(self.drop(x).mean((2, 3))) * self.scale}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()  # in training mode


@pytest.mark.parametrize("layer", ["stem", "stages.0", "stages.1", "stages", "drop"])
def test_the_halves_are_the_whole(net: Net, layer: str) -> None:
    x = rand(5, 1, 8, 8)
    front, rest = tap(net, layer, x[:2])
    features = front(x)
    assert not features.requires_grad
    assert torch.allclose(rest(features)["logits"], net.eval()(x)["logits"], atol=1e-6)


def test_gradients_end_at_the_feature_map(net: Net) -> None:
    x = rand(4, 1, 8, 8)
    front, rest = tap(net, "stages.0", x)
    features = front(x)
    before = features.clone()
    maps = saliency_maps(rest, features, sign=False)
    assert maps.shape == (4, 3, *features.shape[1:])
    assert torch.equal(features, before)  # an in-place ReLU comes next
    made: list[Tensor] = []

    def keep(module: nn.Module, given: object, output: Tensor) -> Tensor:
        made.append(output.detach().requires_grad_())
        return made[-1].clone()

    net.eval().stages[0].register_forward_hook(keep)
    loss = nn.functional.cross_entropy(net(x)["logits"], torch.zeros(4, dtype=torch.long), reduction="sum")
    expected = torch.autograd.grad(loss, made[0])[0]
    assert torch.allclose(maps[:, 0], expected, atol=1e-6)


def test_the_caller_s_model_is_left_alone(net: Net) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    front, rest = tap(net, "stages", rand(2, 1, 8, 8))
    csm(rest, front(rand(2, 1, 8, 8)))
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    own = {id(p) for p in net.parameters()}
    assert not own.intersection(id(p) for half in (front, rest) for p in half.parameters())
    places = {p.data_ptr() for p in net.parameters()}
    assert places == {p.data_ptr() for half in (front, rest) for p in half.parameters()}  # shared, and each is needed
    assert not [name for name, _ in rest.named_parameters() if "stem" in name]


def test_a_detector_of_the_second_half_is_saved_and_found_again(net: Net, tmp_path) -> None:
    x = rand(200, 1, 8, 8)
    front, rest = tap(net, "stages", x[:2])
    detector = Detector(rest, evidence="fast").fit(front(x))
    detector.save(tmp_path / "d.gradgeo")
    again = tap(net, "stages", x[:3])[1]
    loaded = Detector.load(tmp_path / "d.gradgeo", again)
    assert torch.equal(loaded.predict(front(x[:9])).p_value, detector.predict(front(x[:9])).p_value)


def test_one_input_without_number_does_not_spoil_the_trial(net: Net) -> None:
    x = rand(3, 1, 8, 8)
    x[1] = torch.nan
    front, _ = tap(net, "stem", x)
    assert front(x).isfinite().flatten(1).all(1).tolist() == [True, False, True]


def test_torchvision_s_stages() -> None:
    resnet18 = pytest.importorskip("torchvision").models.resnet18
    torch.manual_seed(0)
    model, x = resnet18(weights=None), rand(2, 3, 64, 64)
    front, rest = tap(model, "layer3", x)
    assert front(x).shape == (2, 256, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert csm(rest, front(x), classes=3).shape == (2, 3, 3)


class Often(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.never, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(x)))


class Past(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.aside, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.aside(x)
        return self.head(self.body(x) + x)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) if x.sum() > 0 else x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, None])[0][:, 0])


class Typed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (type(x) is Tensor)  # a stand-in is none


@pytest.mark.parametrize(
    ("model", "layer", "error", "message"),
    [
        (Often(), "layers", ArgumentError, "tap: expected layer to be one of 'layer', 'never', 'head', got 'layers'"),
        (Often(), "", ArgumentError, "expected layer to be one of"),
        (Often(), "layer", ModelError, "'layer' is called 2 times"),
        (Often(), "never", ModelError, "'never' is called 0 times"),
        (Past(), "body", ModelError, r"past layer 'body' as well, by way of %x"),
        (Past(), "aside", ModelError, "do not depend on the output of layer 'aside'"),
        (Branches(), "body", ModelError, r"cannot be traced \(TraceError"),
        (Recurrent(), "lstm", ModelError, "put out one feature map per input, .* got tuple"),
        (Typed(nn.Linear(4, 4), nn.Linear(4, 2)), "0", ModelError, "a trace does not see"),
        (lambda x: x, "0", ArgumentError, "expected model to be a torch.nn.Module"),
    ],
)
def test_what_cannot_be_cut_is_named(model: nn.Module, layer: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tap(model, layer, rand(3, 4))


def test_hooks_are_part_of_what_is_cut() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].register_forward_hook(lambda module, given, made: made + 1)
    front, rest = tap(model, "1", rand(2, 4))
    assert torch.allclose(rest(front(rand(2, 4))), model(rand(2, 4)))


def test_a_trial_needs_an_input_with_numbers(net: Net) -> None:
    with pytest.raises(ArgumentError, match="at least one input without NaN"):
        tap(net, "stem", torch.full((2, 1, 8, 8), torch.nan))
    with pytest.raises(ArgumentError, match="expected x to be a tensor"):
        tap(net, "stem", [1.0])
