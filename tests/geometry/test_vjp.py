"""Every way of differentiating gives the maps of the float64 reference."""

import copy

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from benchmarks import reference
from gradgeo.classifier import optimized as optimized_module
from gradgeo.errors import GradgeoWarning
from gradgeo.geometry import vjp as engine
from gradgeo.geometry.losses import LOSSES
from helpers.folding import Residual, jacobian_of, trained
from helpers.nets import OneByOne, Recurrent


@pytest.mark.grid
@pytest.mark.rounding
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scaling", [{}, {"temperature": 10.0}, {"rescale": True}], ids=["", "temperature", "rescale"])
@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("way", ["one by one", "batched", "unfolded"])
def test_every_way_equals_the_float64_reference(
    case: tuple[nn.Module, Tensor],
    loss: str,
    scaling: dict[str, object],
    classes: int | None,
    n: int,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = case[0], case[1][:n]
    batched = way == "batched"
    together = dict.fromkeys(engine.TOGETHER, 64 if batched else 1)
    if way == "unfolded":
        monkeypatch.setattr(optimized_module, "AGREEMENT", {})
    monkeypatch.setattr(engine, "TOGETHER", together)
    monkeypatch.setattr(engine, "LARGE_BATCH", 64)
    monkeypatch.setattr(engine, "BYTES", engine.BYTES if batched else 1)
    options = {"loss": loss, **scaling}
    exact = reference.maps(model, x, **options)
    if classes is not None:
        top = model.double()(x.double()).topk(classes).indices
        model.float()
        exact = exact[torch.arange(n)[:, None], top]
    defined = exact.flatten(2).norm(dim=2) > 1e-9  # the largest logit is a constant after rescaling
    pairs = (defined[:, :, None] & defined[:, None, :]) & ~torch.eye(exact.shape[1], dtype=torch.bool)
    ours = {sign: gradgeo.csm(model, x, sign=sign, classes=classes, **options).double() for sign in (False, True)}
    assert (ours[False] - reference.cosines(exact))[pairs].abs().max() <= 1e-4
    assert (ours[True] - reference.cosines(exact.sign()))[pairs].abs().max() <= 4 / x[0].numel()


def test_fewer_features_than_classes_cost_as_many_passes_as_features(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    passes: list[int] = []
    once = engine.gradient
    monkeypatch.setattr(engine, "gradient", lambda *args: passes.append(1) or once(*args))
    forward = jacobian_of(trained(Residual(12, 6)), torch.rand(9, 3, 9, 8))
    for _ in range(3):
        forward.vjp(torch.randn(9, 12, 12, dtype=torch.float64))
    assert len(passes) == 6
    jacobian_of(trained(Residual(12, 6)), torch.rand(9, 3, 9, 8)).vjp(torch.randn(9, 2, 12))
    assert len(passes) == 8


@pytest.mark.parametrize(
    ("loss", "scaling", "passes"),
    [("cross_entropy", {}, 3), ("mse", {}, 3), ("mse", {"rescale": True}, 4), ("logit", {}, 4)],
)
def test_maps_of_a_softmax_cost_a_pass_less_than_there_are_classes(
    loss: str, scaling: dict[str, bool], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    made: list[int] = []
    once = engine.gradient
    monkeypatch.setattr(engine, "gradient", lambda *args: made.append(1) or once(*args))
    model, x = trained(Residual(4, 10)), torch.rand(9, 3, 9, 8)
    gradgeo.csm(model, x, loss=loss, **scaling)
    assert len(made) == passes
    gradgeo.saliency_maps(model, x, loss=loss, **scaling, classes=[3, 1, 0, 2])
    assert len(made) == 2 * passes
    gradgeo.csm(model, x, loss=loss, **scaling, classes=3)
    assert len(made) == 2 * passes + 3


class Tokens(nn.Module):
    """A BatchNorm that nothing can be folded into, before pixels become tokens; `one_by_one` keeps vmap away."""

    def __init__(self, rank: int, one_by_one: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3) if rank == 2 else nn.BatchNorm1d(3)
        self.mix, self.head, self.one_by_one = nn.LayerNorm(3), nn.Linear(3, 4), one_by_one

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(torch.tanh(OneByOne.apply(x) if self.one_by_one else x)).flatten(2).transpose(1, 2)
        weight = torch.linspace(0, 1, h.shape[1], dtype=h.dtype)[:, None]
        return self.head((torch.tanh(self.mix(h)) * weight).sum(1))


@pytest.mark.filterwarnings("ignore:the model's classes are differentiated one by one")
@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("shape", [(3, 6, 5), (3, 9)])
def test_a_batch_of_one_before_tokens(shape: tuple[int, ...], one_by_one: bool) -> None:
    """Where PyTorch itself is wrong: its gradient of one input is not that of the same input twice."""
    torch.manual_seed(0)
    model, x = trained(Tokens(len(shape) - 1, one_by_one)), torch.rand(1, *shape)
    twice = gradgeo.saliency_maps(model, x.expand(2, *shape), sign=False)[:1]
    once = gradgeo.saliency_maps(model, x, sign=False)
    assert (once - twice).abs().max() <= 1e-5 * twice.abs().max()
    factor = 2 if one_by_one else 1  # of `OneByOne`
    step = 1e-4 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    deep, wide = copy.deepcopy(model).double().requires_grad_(False), x.double()
    for i in range(4):
        up, down = (nn.functional.cross_entropy(deep(wide + sign * step), torch.tensor([i])) for sign in (1, -1))
        rise = (once[0, i].double() * step).sum()
        assert abs(float(rise - factor * (up - down) / 2)) <= 1e-2 * abs(float(rise)) + 1e-7


def test_what_cannot_be_batched_falls_back_and_says_so_once() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(9, 20), nn.Tanh(), nn.Linear(20, 7))

        def forward(self, x: Tensor) -> Tensor:
            return OneByOne.apply(self.net(x))

    torch.manual_seed(0)
    model, x = Custom(), torch.rand(3, 9)
    with pytest.warns(GradgeoWarning, match="differentiated one by one, which takes longer") as caught:
        found = gradgeo.csm(model, x)
    assert len(caught) == 1
    assert torch.equal(gradgeo.csm(model, x), found)  # and says nothing
    gradgeo.csm(model, x, precision="bfloat16")  # nor here
    assert torch.equal(found, gradgeo.csm(model.net, x))
    maps = [gradgeo.saliency_maps(m, x, sign=False, loss="logit") for m in (model, model.net)]
    assert torch.allclose(maps[0], 2 * maps[1])  # the head is linear, what comes after it is not


def test_in_place_models_and_recurrent_ones_agree_with_the_reference() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 9)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv((1 * x).mul_(2)).mul_(0.5)  # what the norm gets is no longer what the convolution made
            return self.head(self.bn(h).tanh_().mean((2, 3)))

    torch.manual_seed(0)
    for model, x in ((trained(InPlace()), torch.rand(2, 3, 7, 7)), (Recurrent(), torch.rand(2, 6, 3))):
        exact = reference.maps(model, x, "cross_entropy")
        ours = gradgeo.saliency_maps(model, x, sign=False)
        assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()
