"""Peers written or adapted here are their papers' formulas, and work where classes, inputs or layers are few."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradgeo.bench import cache, peers
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.layer_peers import LAYERS, LayerMahalanobis, Layers, LocalDimensionality, NearestNeighbours
from gradgeo.bench.methods import METHODS
from gradgeo.bench.penultimate import Penultimate
from gradgeo.bench.remembered import once, remembered
from gradgeo.bench.scores import score, score_or_errors, shared_groups
from gradgeo.bench.squeezing import FeatureSqueezing
from gradgeo.errors import ArgumentError, ModelError

pytestmark = pytest.mark.skipif(find_spec("pytorch_ood") is None, reason="pytorch-ood is not installed")

PEERS = {name: method for name, method in METHODS.items() if method.peer}


def inputs(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 12), nn.ReLU())
    net = nn.Sequential(body, nn.Linear(12, 4)).eval().requires_grad_(False)
    net[1].bias -= net(inputs(500)).median(0).values  # so that every class is predicted
    return net


@pytest.fixture(scope="module")
def trusted(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(x, model(x).argmax(1)) for x in inputs(400).split(64)]


def features(model: nn.Module, x: Tensor) -> np.ndarray:
    return model[0](x).double().numpy()


def close(scores: Tensor, right: np.ndarray) -> None:
    scale = np.abs(right - np.median(right)).mean()
    assert np.abs(scores.double().numpy() - right).max() < 1e-3 * scale


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_distances_to_class_means_are_the_formula(
    model: nn.Module, trusted: list[tuple[Tensor, Tensor]], unit: bool, relative: bool
) -> None:
    name = ("RMD" if relative else "Mahalanobis") + "++" * unit
    detector = METHODS[name].make(model, inputs(2))
    detector.fit(trusted)
    z, new = (features(model, x) for x in (torch.cat([x for x, _ in trusted]), inputs(50, 1)))
    if unit:
        z, new = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (z, new))
    y = torch.cat([y for _, y in trusted]).numpy()
    centred = np.concatenate([z[y == c] - z[y == c].mean(0) for c in np.unique(y)])
    ridge = 1e-6 * np.eye(z.shape[1])

    def squared(centre: np.ndarray, scatter: np.ndarray) -> np.ndarray:
        return np.array([(v - centre) @ np.linalg.solve(scatter + ridge, v - centre) for v in new])

    nearest = np.min([squared(z[y == c].mean(0), centred.T @ centred) for c in np.unique(y)], axis=0)
    background = squared(z.mean(0), (z - z.mean(0)).T @ (z - z.mean(0)))
    close(detector.predict(inputs(50, 1)), nearest - background if relative else nearest / 2)


def test_fdbd_is_the_mean_distance_to_boundaries_and_pytorch_oods(
    model: nn.Module, trusted: list[tuple[Tensor, Tensor]]
) -> None:
    from pytorch_ood.detector import fDBD

    ours = peers.FastBoundary(model, inputs(2)).fit(trusted)
    theirs = fDBD(model[0], model[1]).fit(trusted)
    close(ours.predict(inputs(50, 1)), theirs.predict(inputs(50, 1)).double().numpy())


def test_scale_and_nnguide_are_the_formulas(model: nn.Module, trusted: list[tuple[Tensor, Tensor]]) -> None:
    z, new = (features(model, x) for x in (torch.cat([x for x, _ in trusted]), inputs(50, 1)))
    w, b = model[1].weight.double().numpy(), model[1].bias.double().numpy()

    def energy(f: np.ndarray) -> np.ndarray:
        return np.log(np.exp(f @ w.T + b).sum(1))

    kept = np.sort(new, axis=1)[:, -(12 - round(0.65 * 12)) :]
    scaled = new * np.exp(new.sum(1) / kept.sum(1))[:, None]
    close(METHODS["SCALE"].make(model, inputs(2)).predict(inputs(50, 1)), -energy(scaled))
    nnguide = METHODS["NNGuide"].make(model, inputs(2))
    nnguide.fit(trusted)
    units = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in (z, new)]
    guidance = np.sort(units[1] @ (units[0] * energy(z)[:, None]).T, axis=1)[:, -10:].mean(1)
    close(nnguide.predict(inputs(50, 1)), -guidance * energy(new))


def outputs(model: nn.Module, x: Tensor) -> list[np.ndarray]:
    """Of the three layers with weights, the convolution's averaged over positions."""
    first = model[0][0](x)
    second = model[0][3](first.relu().flatten(1))
    return [v.double().numpy() for v in (first.mean((2, 3)), second, model[1](second.relu()))]


def test_local_dimensionality_is_the_maximum_likelihood_estimate(
    model: nn.Module, trusted: list[tuple[Tensor, Tensor]]
) -> None:
    def lid(v: np.ndarray, others: np.ndarray) -> float:
        nearest = np.sort(np.linalg.norm(others - v, axis=1))[:20]
        return float(-1 / np.mean(np.log(nearest / nearest[-1])))

    total = np.zeros(30)
    every = torch.linspace(0, 399, 100).round().long()
    known, new = outputs(model, torch.cat([x for x, _ in trusted])[every]), outputs(model, inputs(30, 1))
    for kept, own in zip(known, new, strict=True):
        usual = np.array([lid(v, np.delete(kept, i, 0)) for i, v in enumerate(kept)])
        total += (np.array([lid(v, kept) for v in own]) - usual.mean()) / usual.std(ddof=1)
    detector = LocalDimensionality(model, inputs(2)).fit(trusted)
    close(detector.predict(inputs(30, 1)), total / 3)


def test_neighbours_of_another_class_are_counted_over_layers(
    model: nn.Module, trusted: list[tuple[Tensor, Tensor]]
) -> None:
    y = torch.cat([y for _, y in trusted]).numpy()
    known, new = outputs(model, torch.cat([x for x, _ in trusted])), outputs(model, inputs(30, 1))
    predicted, right = model(inputs(30, 1)).argmax(1).numpy(), np.zeros(30)
    for kept, own in zip(known, new, strict=True):
        cosine = (own / np.linalg.norm(own, axis=1)[:, None]) @ (kept / np.linalg.norm(kept, axis=1)[:, None]).T
        right += (y[np.argsort(-cosine, axis=1)[:, :75]] != predicted[:, None]).sum(1)
    detector = NearestNeighbours(model, inputs(2)).fit(trusted)
    assert np.abs(detector.predict(inputs(30, 1)).numpy() - right).max() <= 1  # two neighbours as near but for rounding
    assert right.std() > 10


def test_distances_of_layers_add_up(model: nn.Module, trusted: list[tuple[Tensor, Tensor]]) -> None:
    from pytorch_ood.detector import Mahalanobis

    y = torch.cat([y for _, y in trusted])
    known, new = outputs(model, torch.cat([x for x, _ in trusted])), outputs(model, inputs(30, 1))
    parts = [
        Mahalanobis(None).fit_features(torch.tensor(kept).float(), y).predict_features(torch.tensor(own).float())
        for kept, own in zip(known, new, strict=True)
    ]
    close(LayerMahalanobis(model, inputs(2)).fit(trusted).predict(inputs(30, 1)), sum(parts).double().numpy())


@pytest.mark.parametrize(("channels", "levels"), [(1, 1), (3, 31)])
def test_squeezing_compares_with_fewer_levels_and_medians(channels: int, levels: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * 36, 5)).eval()
    x = torch.rand(8, channels, 6, 6)

    def probabilities(x: Tensor) -> Tensor:
        return net(x).double().softmax(1)

    padded = nn.functional.pad(x, (1, 0, 1, 0), mode="replicate")  # above and left; "reflect" of SciPy repeats the edge
    four = torch.stack([padded[..., i : i + 6, j : j + 6] for i in (0, 1) for j in (0, 1)])
    squeezed = ((x * levels).round() / levels, four.sort(0).values[2])
    moved = torch.stack([(probabilities(s) - probabilities(x)).abs().sum(1) for s in squeezed]).amax(0)
    close(FeatureSqueezing(net, x).predict(x), moved.detach().numpy())


@pytest.mark.parametrize("x", [torch.rand(2, 4, 6, 6), torch.rand(2, 5), 2 * torch.rand(2, 1, 6, 6)])
def test_squeezing_is_of_images(x: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 5)).eval()
    with pytest.raises(ArgumentError, match=r"images \(N, 1 or 3, H, W\) in \[0, 1\], which can be squeezed"):
        FeatureSqueezing(net, x)


def test_layers_are_few_in_order_and_leave_the_model_alone() -> None:
    net = nn.Sequential(*(nn.Linear(5, 5) for _ in range(20))).train()
    found, _ = Layers(net, torch.rand(3, 5))(torch.rand(7, 5))
    assert len(found) == LAYERS
    assert all(output.shape == (7, 5) and output.dtype == torch.float64 for output in found)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    x = torch.rand(7, 5)
    outputs, predicted = Layers(net, x)(x)
    assert torch.allclose(outputs[-1], net(x).double())
    assert predicted.tolist() == outputs[-1].argmax(1).tolist()
    tokens = nn.Sequential(nn.Linear(5, 6), nn.Flatten(), nn.Linear(18, 2))
    assert [output.shape for output in Layers(tokens, torch.rand(2, 3, 5))(torch.rand(7, 3, 5))[0]] == [(7, 6), (7, 2)]


@pytest.mark.parametrize("net", [lambda x: x[:, :3], nn.Sequential(nn.Flatten(), nn.Tanh())])
def test_a_model_without_layers_says_so(net: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match=r"layers cannot be looked at|no convolutional or linear layer"):
        LocalDimensionality(net, torch.rand(2, 5))


def failures(net: nn.Module, x: Tensor, half: int) -> dict[str, str]:
    """Peers without scores, with the reason; the others have finite ones."""
    task = ClassifierUnderTest("few", net, x, torch.full((len(x),), -1), half)
    found: dict[str, str] = {}
    for group in shared_groups(PEERS):
        for name, result in score_or_errors(group, task, {"a": x[half:]}).items():
            if isinstance(result, Exception):
                found[name] = str(result)
            else:
                assert np.isfinite(result.scores["a"]).all(), name
    return found


OF_FEATURES = ("Mahalanobis", "Mahalanobis++", "RMD", "RMD++", "KNN", "NNGuide", "ViM", "SHE", "fDBD", "DICE")
OF_HEAD = (*OF_FEATURES, "GradNorm", "ReAct", "ASH", "SCALE")


@pytest.mark.simulation
def test_without_a_linear_head_peers_of_features_say_so_and_the_others_work() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 4), nn.Flatten()).eval()
    found = failures(net, inputs(160), 100)
    assert set(found) == set(OF_HEAD)
    assert all("no linear layer of the model makes its logits" in reason for reason in found.values())


def test_an_absent_class_is_no_hindrance_or_named(model: nn.Module) -> None:
    x = inputs(400)
    x = torch.cat([x[model(x).argmax(1) != 0][:120], inputs(60, 1)])
    found = failures(model, x, 120)
    assert list(found) == ["SHE"]
    assert found["SHE"].startswith("SHE learns a pattern of every class, and 1 of 4 have no trusted input")


@pytest.mark.simulation
def test_sixty_inputs_of_many_features_are_enough() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 1280), nn.ReLU(), nn.Linear(1280, 3)).eval().requires_grad_(False)
    net[3].bias -= net(inputs(60)).median(0).values
    assert failures(net, inputs(80), 60) == {}


def test_what_is_computed_together_is_computed_once() -> None:
    calls: list[str] = []
    with remembered():
        assert [once(lambda: calls.append("made") or 5, "a", inputs(3)) for _ in range(2)] == [5, 5]
        once(lambda: calls.append("other"), "a", inputs(3, 1))
    assert calls == ["made", "other"]
    for _ in range(2):
        once(lambda: calls.append("outside"), "a", inputs(3))
    assert calls[2:] == ["outside", "outside"]


def test_peers_that_are_asked_together_share_their_passes(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    forward = Penultimate.forward
    monkeypatch.setattr(Penultimate, "forward", lambda self, x: (passes.append(len(x)), forward(self, x))[1])
    group = {name: METHODS[name] for name in ("ViM", "DICE", "SCALE")}
    assert list(map(list, shared_groups({**group, "ODIN": METHODS["ODIN"]}))) == [[*group], ["ODIN"]]
    task = ClassifierUnderTest("few", model, inputs(140), torch.full((140,), -1), 100)
    together = score(group, task, {"a": inputs(30, 1), "b": inputs(40, 2)}, timed=False)
    assert passes.count(64) == passes.count(40) == 1  # to fit, and to score
    monkeypatch.setattr(cache, "CACHE", cache.CACHE / "other")
    for name in group:
        alone = score({name: group[name]}, task, {"a": inputs(30, 1), "b": inputs(40, 2)})[name].scores
        assert all(np.allclose(alone[column], together[name].scores[column], rtol=1e-4) for column in alone), name


def test_peers_state_their_paper_and_licence() -> None:
    assert len(PEERS) >= 16
    for name, method in PEERS.items():
        assert method.source[-4:].isdigit(), name
        assert method.library in ("", "pytorch-ood, Apache-2.0"), name
        assert "forward" in method.passes, name
