"""The engine: every way of differentiating gives the maps of the float64 reference, and the kept copy never is stale."""

import copy
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from benchmarks import reference
from gradgeo.classifier import optimized as optimized_module
from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.errors import ArgumentError, GradgeoWarning
from gradgeo.geometry import similarity
from gradgeo.geometry import vjp as engine
from gradgeo.geometry.autograd import AutogradJacobian
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.losses import LOSSES
from helpers.nets import OneByOne


class Residual(nn.Module):
    """Convolutions with BatchNorm, one of whose outputs is used twice, before a linear head with few features."""

    def __init__(self, classes: int = 12, features: int = 6) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, features, 3, padding=1, bias=False), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = nn.Conv2d(features, features, 3, padding=1), nn.BatchNorm2d(features, affine=False)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.bn1(self.conv1(x)))
        return self.head(torch.tanh(h + self.bn2(self.conv2(h))).mean((2, 3)))


def trained(model: nn.Module) -> nn.Module:
    """With statistics in its BatchNorms that are not those of a new one."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            if module.weight is not None:
                module.weight.data.copy_(torch.randn(module.num_features, generator=generator))
    return model.eval()


def signal() -> nn.Module:
    body = nn.Sequential(nn.Conv1d(2, 8, 5, stride=2), nn.BatchNorm1d(8), nn.Tanh(), nn.Flatten(), nn.LazyLinear(4))
    body(torch.rand(2, 2, 21))
    return body


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "few features": (Residual, (3, 9, 8)),
    "many features": (lambda: Residual(4, 10), (3, 9, 8)),
    "signal": (signal, (2, 21)),
    "table": (lambda: nn.Sequential(nn.Linear(9, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 7)), (9,)),
}


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = MODELS[request.param]
    return trained(make()), torch.rand(9, *shape)


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


def forward_of(model: nn.Module, x: Tensor) -> InputJacobian:
    classifier = Classifier.of(model)
    batch = classifier.prepare(x)
    with preserve_state(x):
        return AutogradJacobian(classifier.optimized(batch), batch)


def optimized(model: nn.Module, x: Tensor) -> OptimizedModel:
    classifier = Classifier.of(model)
    return classifier.optimized(classifier.prepare(x))


def test_batchnorm_is_folded_and_the_logits_stay(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    forward = forward_of(model, x)
    fast = optimized(model, x).model
    assert isinstance(fast, nn.Module)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in fast.modules())
    assert any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert (forward.logits - model(x)).abs().max() <= 1e-5 * model(x).abs().max()


class UsedTwice(Residual):
    """What its BatchNorm gets is used beside it: folding would change the logits."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        return self.head(torch.tanh(h + self.bn1(h)).mean((2, 3)))


class CalledTwice(Residual):
    """Its BatchNorm serves two layers: only one of them could take it in."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.bn1(self.conv1(x)))
        return self.head(torch.tanh(self.bn1(self.conv2(h))).mean((2, 3)))


class SharedLayer(Residual):
    """Its second convolution is called with and without a BatchNorm behind it."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.conv2(self.conv1(x)))
        return self.head(torch.tanh(self.bn2(self.conv2(h))).mean((2, 3)))


class ReadsItsNorm(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.bn1.eps


class Views(Residual):
    """Its view of an activation fails on channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bn1(self.conv1(x))).view(len(x), 6, -1).mean(2))


@pytest.mark.parametrize("kind", [UsedTwice, CalledTwice, SharedLayer, ReadsItsNorm, Views])
def test_what_cannot_be_folded_or_laid_out_is_left_as_it_is(kind: type[Residual]) -> None:
    torch.manual_seed(0)
    model, x = trained(kind()), torch.rand(3, 3, 9, 8)
    exact = reference.maps(model, x, "logit")
    ours = gradgeo.saliency_maps(model, x, loss="logit", sign=False)
    assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()
    assert (forward_of(model, x).logits - model(x)).abs().max() <= 1e-5 * model(x).abs().max()


def test_features_and_head_make_the_logits(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    forward = forward_of(model, x)
    assert forward.features is not None
    head = optimized(model, x).head
    assert head is not None
    assert torch.equal(head(forward.features), forward.logits)
    assert not forward.features.requires_grad
    without = forward_of(nn.Sequential(model, nn.Tanh()), x)
    assert without.features is None


def test_fewer_features_than_classes_cost_as_many_passes_as_features(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    passes: list[int] = []
    once = engine.gradient
    monkeypatch.setattr(engine, "gradient", lambda *args: passes.append(1) or once(*args))
    forward = forward_of(trained(Residual(12, 6)), torch.rand(9, 3, 9, 8))
    for _ in range(3):
        forward.vjp(torch.randn(9, 12, 12, dtype=torch.float64))
    assert len(passes) == 6
    forward_of(trained(Residual(12, 6)), torch.rand(9, 3, 9, 8)).vjp(torch.randn(9, 2, 12))
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


class Signals(nn.Module):
    """Convolutions of signals, with a view that channels last does not allow, or a function as the last layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 6, 3))
        self.last = nn.Identity() if kind == "function" else nn.Tanh()
        self.head, self.kind = nn.Linear(6, 3), kind

    def forward(self, x: Tensor) -> Tensor:
        h = self.last(self.body(x))
        if self.kind == "view":
            h = h.view(-1).view_as(h)
        return self.head((torch.tanh(h) if self.kind == "function" else h).mean(2))


@pytest.mark.parametrize("kind", ["plain", "view", "function"])
def test_signals_lie_channels_last_where_gradients_do(kind: str) -> None:
    torch.manual_seed(0)
    model, x = trained(Signals(kind)), torch.rand(9, 2, 20)
    forward_of(model, x)
    fast = optimized(model, x).model
    layouts: list[tuple[int, ...]] = []
    with preserve_state(x):
        made = fast.last(fast.body(x.clone().requires_grad_()))
        made.register_hook(lambda above: layouts.append(above.stride()))
        fast.head(made.mean(2)).sum().backward()
    rows = kind == "plain"
    assert (type(fast.body[0]) is not nn.Conv1d) == rows
    assert made.stride() == ((96, 1, 6) if rows else (96, 16, 1))
    assert layouts == [made.stride()]
    exact = reference.maps(model, x, "cross_entropy")
    ours = gradgeo.saliency_maps(model, x, sign=False)
    assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()


def changes() -> dict[str, Callable[[Residual], object]]:
    def in_place(model: Residual) -> None:
        with torch.no_grad():
            model.conv1.weight.neg_()

    def swap(model: Residual) -> None:
        model.conv2 = nn.Conv2d(6, 6, 1)

    def double(model: Residual) -> None:
        other = {name: 2 * value for name, value in model.state_dict().items() if "num_batches" not in name}
        model.load_state_dict(other, strict=False)

    return {
        "in place": in_place,
        "through .data": lambda model: model.conv1.weight.data.neg_(),
        "another buffer": lambda model: model.bn1.running_mean.add_(1),
        "load_state_dict": double,
        "another module": swap,
        "a setting": lambda model: setattr(model.bn1, "eps", 3.0),
        "float64": lambda model: model.double(),
        "a hook": lambda model: model.bn1.register_forward_hook(lambda module, args, output: 2 * output),
        "another forward": lambda model: setattr(model, "forward", lambda x: model.head(x.mean((2, 3)).repeat(1, 2))),
    }


@pytest.mark.parametrize("change", changes().values(), ids=changes())
def test_a_changed_model_is_noticed(change: Callable[[Residual], object]) -> None:
    torch.manual_seed(0)
    model, x = trained(Residual()), torch.rand(2, 3, 9, 8)
    before = gradgeo.csm(model, x, sign=False)
    assert Classifier.of(model) is Classifier.of(model)
    change(model)
    after = gradgeo.csm(model, x, sign=False)
    exact = reference_csm(model, x)
    assert (after.double() - exact).abs().max() <= 1e-4
    assert after.dtype != before.dtype or (after - before).abs().max() > 1e-3


def reference_csm(model: nn.Module, x: Tensor) -> Tensor:
    """Of the model as it stands: a copy would not have its new forward."""
    leaf = x.to(next(model.parameters()).dtype).requires_grad_()
    losses = -model(leaf).log_softmax(1).sum(0)
    maps = torch.stack([torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses], dim=1)
    return gradgeo.cosine_similarity_matrix(maps.double())


def test_an_unchanged_model_is_copied_once_and_not_kept_alive() -> None:
    model = trained(Residual())
    x = torch.rand(2, 3, 9, 8)
    first = Classifier.of(model)
    model.train()
    model.eval()
    gradgeo.csm(model, x)
    assert Classifier.of(model) is first
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


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

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    for model, x in ((trained(InPlace()), torch.rand(2, 3, 7, 7)), (Recurrent(), torch.rand(2, 6, 3))):
        exact = reference.maps(model, x, "cross_entropy")
        ours = gradgeo.saliency_maps(model, x, sign=False)
        assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("integers", [True, False])
def test_products_of_signs_are_exact(integers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_integers_are_faster", lambda: integers)
    monkeypatch.setattr(similarity, "COLUMNS", 50)
    signs = torch.randint(-1, 2, (600, 77), generator=torch.Generator().manual_seed(0))
    assert torch.equal(similarity.products_of_signs(signs.to(torch.int8)), (signs @ signs.T).double())


def test_the_way_to_multiply_signs_is_the_faster_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one processor the integer product takes a fifth of the other's time, on another twenty times as much."""
    measured = similarity._integers_are_faster.__wrapped__
    for slow, faster in ((similarity._float_product, True), (similarity._integer_product, False)):
        monkeypatch.setattr(similarity, "_quickest", lambda multiply, signs, slow=slow: float(multiply is slow))
        assert measured() is faster


def test_a_pytorch_without_the_integer_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    assert not similarity._integers_are_faster.__wrapped__()


@pytest.mark.parametrize("channel_max", [False, True])
@pytest.mark.parametrize("sign", [False, True])
def test_many_classes_equal_their_maps_cosines_in_any_budget(sign: bool, channel_max: bool) -> None:
    torch.manual_seed(0)
    model, x = trained(Residual(300, 6)), torch.rand(5, 3, 9, 8)
    x[3, 0, 0, 0] = torch.nan
    options = {"sign": sign, "channel_max": channel_max}
    with pytest.warns(GradgeoWarning, match="1 of 5"):
        maps = gradgeo.saliency_maps(model.double(), x, **options)
    exact = gradgeo.cosine_similarity_matrix(maps)
    model.float()
    with pytest.raises(ArgumentError) as refused:
        gradgeo.csm(model, x, memory_budget=1000, **options)
    for budget in (None, the_least(refused.value), 20_000_000):
        with pytest.warns(GradgeoWarning, match="1 of 5"):
            ours = gradgeo.csm(model, x, memory_budget=budget, **options)
        assert ours.dtype == torch.float32
        assert torch.equal(ours.isnan(), exact.isnan())
        assert (ours - exact).abs().nan_to_num(0).max() <= (4 / (72 if channel_max else 216) if sign else 1e-4)


def test_a_budget_too_small_for_one_sample_says_the_least() -> None:
    model, x = trained(Residual(300, 6)), torch.rand(2, 3, 9, 8)
    for call in (gradgeo.csm, gradgeo.saliency_maps):
        with pytest.raises(ArgumentError, match=r"expected memory_budget to be at least [\d,]+ bytes, what one sample"):
            call(model, x, memory_budget=1000)
        with pytest.raises(ArgumentError, match="expected memory_budget to be a positive number of bytes or None"):
            call(model, x, memory_budget=0)
    with pytest.raises(ArgumentError) as refused:
        gradgeo.csm(model, x, memory_budget=1000)
    assert gradgeo.csm(model, x, memory_budget=the_least(refused.value)).shape == (2, 300, 300)


def the_least(refusal: ArgumentError) -> int:
    """The bytes that a refused budget should have been."""
    return int(str(refusal).split("at least ")[1].split(" ")[0].replace(",", ""))


PEAK = """
import resource, sys, threading, time, torch, gradgeo
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
n, sign, classes, budget = int(sys.argv[1]), sys.argv[2] == "signed", eval(sys.argv[3]), int(sys.argv[4]) << 20
net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 600))
gradgeo.csm(net, torch.rand(2, 3, 48, 48))  # what libraries allocate once
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
x, most, done = torch.rand(n, 3, 48, 48), [0], []
def watch():
    while not done:
        most[0] = max(most[0], resident())
        time.sleep(0.002)
before = resident()
thread = threading.Thread(target=watch)
thread.start()
try:
    result = gradgeo.csm(net, x, sign=sign, classes=classes, memory_budget=budget)
finally:
    done.append(1)
    thread.join()
print((most[0] - before - result.numel() * 4) / budget)
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory that Linux reports")
@pytest.mark.parametrize("kind", ["signed", "unsigned"])
@pytest.mark.parametrize(("n", "classes", "budget"), [(2, None, 256), (48, None, 256), (48, 10, 64)])
def test_a_pass_stays_within_its_budget(n: int, classes: int | None, budget: int, kind: str) -> None:
    command = [sys.executable, "-c", PEAK, str(n), kind, str(classes), str(budget)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(made.stdout) <= 1.15


def test_the_gradients_that_span_all_maps_are_made_once_within_the_usual_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    passes: list[int] = []
    once = engine.gradient
    monkeypatch.setattr(engine, "gradient", lambda *args: passes.append(1) or once(*args))
    gradgeo.csm(trained(Residual(300, 6)), torch.rand(9, 3, 9, 8))
    assert len(passes) == 6


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
