"""Outputs of layers, noted in the pass that is made anyway."""

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.classifier.layers import LAYERS, WIDEST, spaced
from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.detector.one_class.base import NearestLayerMean
from gradgeo.geometry.autograd import DifferentiableJacobian
from helpers import nets
from helpers.folding import Residual, trained


def optimized(model: nn.Module, x: Tensor) -> OptimizedModel:
    classifier = Classifier(model)
    with preserve_state(x):
        return classifier.optimized(classifier.prepare(x))


def layers_of(model: nn.Module, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, ...]:
    """By a copy that was made at `first`."""
    copy = optimized(model, x if first is None else first)
    with torch.no_grad():
        return copy(x.clone(), layers=True).layers


def shapes(layers: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    return [tuple(layer.shape) for layer in layers]


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 20])
def test_layers_are_spaced_evenly(count: int) -> None:
    layers = [nn.Identity() for _ in range(count)]
    chosen = [layers.index(layer) for layer in spaced(layers)]
    assert len(chosen) == min(count, LAYERS)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    assert spaced([]) == []


def test_outputs_are_those_of_the_norms_whether_these_are_folded_or_not() -> None:
    model, x = trained(Residual()).double(), torch.rand(5, 3, 9, 8, dtype=torch.float64)
    seen: list[Tensor] = []
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.mean((2, 3))))
    logits = model(x)  # the hooks are the caller's, so nothing is folded here
    before = list(seen)
    unfolded = layers_of(model, x)
    for layer in model.modules():
        layer._forward_hooks.clear()
    folded = layers_of(model, x)
    assert len(folded) == len(unfolded) > 2
    assert not any(isinstance(m, nn.BatchNorm2d) for m in optimized(model, x).model.modules())
    for ours, theirs in zip(folded[:-1], unfolded[:-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert any(ours.shape == known.shape and torch.allclose(ours, known, rtol=1e-9, atol=1e-9) for known in before)
    torch.testing.assert_close(folded[-1], logits)


def test_what_follows_may_write_into_an_output() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.randn(4, 3, 8, 8)
    first, last = layers_of(model, x)
    torch.testing.assert_close(first, model[0](x).mean((2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, model(x), rtol=1e-5, atol=1e-6)


def test_positions_of_linear_layers_are_averaged_and_wide_layers_thinned_out() -> None:
    torch.manual_seed(0)

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.head = nn.Linear(5, 2 * WIDEST + 1), nn.Linear(2 * WIDEST + 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.wide(x).tanh().mean(1))

    model, x = Mixer().eval(), torch.randn(4, 7, 5)
    wide, logits = layers_of(model, x)
    torch.testing.assert_close(wide, model.wide(x).mean(1)[:, ::3])
    assert wide.shape[1] <= WIDEST
    assert logits.shape == (4, 3)


class SequenceFirst(nn.Module):
    """(N, length, 5) that is turned to (length, N, 5) for its first layer, of which a row is no input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.transpose(0, 1)).tanh().mean(0))


@pytest.mark.parametrize("length", [1, 4, 7])
@pytest.mark.parametrize("first", [1, 4, 7])
def test_layers_of_positions_are_no_layers_of_inputs(length: int, first: int) -> None:
    """Whatever batch a copy is made at: one that is as long as its inputs, too."""
    torch.manual_seed(0)
    model = SequenceFirst().eval()
    assert shapes(layers_of(model, torch.randn(5, length, 5), torch.randn(first, length, 5))) == [(5, 3)]


def test_a_pass_that_goes_another_way_has_none() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x) if len(x) < 4 else x)

    torch.manual_seed(0)
    model = Sometimes().eval()
    assert shapes(layers_of(model, torch.randn(3, 5))) == [(3, 5), (3, 3)]
    assert layers_of(model, torch.randn(4, 5), torch.randn(3, 5)) == ()


def test_functions_have_no_layers_and_are_judged_without() -> None:
    model = nets.network()
    detector = gradgeo.Detector(lambda x: model(x), evidence="lite").fit(nets.inputs(120))
    assert detector.evidence_ == ("mirrored", "spectrum", "symmetry")


def test_they_are_noted_only_where_asked_for_and_stay_in_the_graph() -> None:
    model, x = nets.network(), nets.inputs(4)
    copy = optimized(model, x)
    with torch.no_grad():
        assert copy(x.clone()).layers == ()
    classifier, leaf = Classifier(model), x.clone().requires_grad_()
    batch = classifier.prepare(leaf)
    with preserve_state(leaf):
        first, _ = DifferentiableJacobian(classifier.optimized(batch), batch).layers
    (slope,) = torch.autograd.grad(first[:, 0].sum(), leaf)
    torch.testing.assert_close(slope.flatten(1), model[1].weight[:1].expand(4, -1))


def test_rounding_in_an_entry_that_never_varies_is_no_distance() -> None:
    features = torch.randn(200, 4, dtype=torch.float64).numpy()
    features[:, 3] = 1.0
    model = NearestLayerMean.fit(features, torch.arange(200).remainder(2).numpy(), 2)
    x = torch.from_numpy(features[:50])
    moved = x + torch.tensor([0, 0, 0, 1e-6])
    classes = torch.zeros(50).long()
    torch.testing.assert_close(model.score(moved, classes), model.score(x, classes), rtol=1e-2, atol=1e-2)


def test_units_of_the_entries_do_not_matter() -> None:
    x = torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    units = torch.tensor([1.0, 10.0, 0.5, 3.0], dtype=torch.float64)
    y = torch.arange(200).remainder(2)
    plain, scaled = (NearestLayerMean.fit(rows.numpy(), y.numpy(), 2) for rows in (x, x * units))
    torch.testing.assert_close(plain.score(x, y), scaled.score(x * units, y))
