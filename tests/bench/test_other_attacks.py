"""Attacks of the benchmark's own: what they find, within which limits; and inputs that are spoilt."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from gradgeo.bench import other_attacks, spoilt
from gradgeo.bench.apgd import apgd_ensemble, checkpoints, cross_entropy, dlr
from gradgeo.bench.other_attacks import ANGLES, brendel_bethge, carlini_wagner, noise_in_ball, rotated, rotation
from gradgeo.errors import ArgumentError, MissingDependencyError, ModelError


@pytest.fixture(scope="module")
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(12, 5).eval().requires_grad_(False)


def points(n: int, *shape: int) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def test_the_ensemble_breaks_what_can_be_broken_of_a_linear_model(linear: nn.Linear) -> None:
    x, epsilon = points(200, 12), 0.06
    logits, w = linear(x).double(), linear.weight.double()
    labels = logits.argmax(1)
    lead = logits.gather(1, labels[:, None]) - logits  # (N, C)
    reach = epsilon * (w[labels][:, None] - w).abs().sum(2)  # what the largest change takes off the lead
    margin = (lead - reach).scatter(1, labels[:, None], torch.inf).amin(1)
    clear = margin.abs() > 1e-3
    found = apgd_ensemble(linear, x, labels, epsilon=epsilon, bounds=None)
    assert 0.2 < float((margin < 0).double().mean()) < 0.8
    assert torch.equal(found.success[clear], (margin < 0)[clear])
    assert float((found.adversarial - x).abs().max()) <= epsilon + 1e-6
    assert torch.equal(linear(found.adversarial).argmax(1) != labels, found.success)


def test_what_the_ensemble_maximises_and_when_it_halves_its_steps() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0]])
    right, wrong = torch.tensor([0]), torch.tensor([1])
    assert float(dlr(logits, right, logits)) == pytest.approx((1 - 3) / (3 - 0))
    assert float(dlr(logits, wrong, logits)) == pytest.approx((3 - 1) / (3 - 0))
    p = float(logits.softmax(1)[0, 0])
    assert float(cross_entropy(logits, right, logits)) == pytest.approx(torch.tensor(1 / p - 1).log().item(), abs=1e-5)
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]  # as in AutoAttack


def test_images_are_turned_about_their_centre() -> None:
    x = points(2, 3, 6, 6)
    assert torch.allclose(rotated(x, 90), x.rot90(-1, (2, 3)), atol=1e-5)
    oblong = points(2, 1, 6, 9)
    assert torch.allclose(rotated(oblong, 180), oblong.flip(2, 3), atol=1e-4)
    turned = rotated(torch.ones(1, 1, 8, 16), 90)[0, 0]  # pixels stay square: a wide strip becomes a high one
    assert torch.allclose(turned[:, 4:12], torch.ones(8, 8), atol=1e-4)
    assert float(turned[:, :3].abs().max()) < 1e-4
    with pytest.raises(ArgumentError, match="x to be images"):
        rotation(nn.Identity(), points(3, 5), torch.zeros(3, dtype=torch.long))


def test_the_worst_of_the_candidates_is_kept() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).eval()
    x = points(30, 1, 6, 6)
    labels = net(x).argmax(1)
    found = rotation(net, x, labels)
    after = torch.stack([net(rotated(x, angle)).argmax(1) for angle in ANGLES])  # (angles, N)
    assert torch.equal(found.success, (after != labels).any(0))
    assert 0 < int(found.success.sum()) < 30
    noisy = noise_in_ball(net, x, labels, epsilon=0.3)
    assert float((noisy.adversarial - x).abs().max()) <= 0.3 + 1e-6
    assert 0 <= float(noisy.adversarial.min()) <= float(noisy.adversarial.max()) <= 1
    assert torch.equal(net(noisy.adversarial).argmax(1) != labels, noisy.success)


@pytest.mark.skipif(find_spec("foolbox") is None, reason="foolbox is not installed")
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_foolbox_finds_small_changes_and_leaves_the_random_state(
    linear: nn.Linear, bounds: tuple[float, float] | None
) -> None:
    x = points(20, 12)
    labels, state = linear(x).argmax(1), torch.random.get_rng_state()
    found = carlini_wagner(linear, x, labels, bounds=bounds)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert int(found.success.sum()) > 10
    assert torch.equal(linear(found.adversarial).argmax(1) != labels, found.success)
    if bounds:
        assert 0 <= float(found.adversarial.min()) <= float(found.adversarial.max()) <= 1
    w = linear.weight
    gap = (linear(x).gather(1, labels[:, None]) - linear(x)) / (w[labels][:, None] - w).norm(dim=2).clamp_min(1e-9)
    nearest = gap.scatter(1, labels[:, None], torch.inf).amin(1)  # no change can be smaller
    assert bool((found.distance >= nearest - 1e-4)[found.success].all())
    assert float((found.distance / nearest)[found.success].median()) < 3


@pytest.mark.skipif(find_spec("foolbox") is None, reason="foolbox is not installed")
def test_what_fails_within_foolbox_is_an_error_of_ours(linear: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(other_attacks.foolbox().attacks.L2CarliniWagnerAttack, "run", fail)
    x = points(4, 12)
    with pytest.raises(ModelError, match="foolbox's L2CarliniWagnerAttack failed: ZeroDivisionError: no luck"):
        carlini_wagner(linear, x, linear(x).argmax(1))


def test_brendel_bethge_needs_numba_and_two_classes(linear: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    x = points(4, 12)
    if find_spec("numba") is None:
        with pytest.raises(MissingDependencyError, match="numba is needed"):
            brendel_bethge(linear, x, linear(x).argmax(1))
    real = other_attacks.require
    monkeypatch.setattr(other_attacks, "require", lambda name, extra: None if name == "numba" else real(name, extra))
    starts: list[Tensor] = []

    class Attack:
        def __init__(self, **options: object) -> None:
            pass

        def run(self, model: object, x: Tensor, labels: Tensor, *, starting_points: Tensor) -> Tensor:
            starts.append(starting_points)
            return starting_points

    if find_spec("foolbox") is not None:
        monkeypatch.setattr(other_attacks.foolbox().attacks, "L2BrendelBethgeAttack", Attack)
        labels = linear(points(40, 12)).argmax(1)
        found = brendel_bethge(linear, points(40, 12), labels)
        assert bool(found.success.all())
        assert bool((linear(starts[0]).argmax(1) != labels).all())
        alike = points(1, 12).expand(4, 12)
        with pytest.raises(ArgumentError, match="of at least two predicted classes"):
            brendel_bethge(linear, alike, linear(alike).argmax(1))


def test_spoilt_images_are_what_they_say() -> None:
    x = points(5, 3, 16, 16)
    assert torch.equal(spoilt.overexposed(x), (x + 0.5).clamp(0, 1))
    assert float(spoilt.dark(x).max()) <= 0.1 + 1 / 510
    if find_spec("torchvision") is not None:
        flat = torch.full((2, 3, 16, 16), 0.4)
        assert torch.allclose(spoilt.blurred(flat), flat, atol=1e-5)
        assert float(spoilt.blurred(x).std()) < 0.5 * float(x.std())
        assert float(spoilt.low_contrast(x).std()) == pytest.approx(0.15 * float(x.std()), rel=0.05)
        for images in (x, x[:, :1]):
            squeezed = spoilt.jpeg(images)
            assert squeezed.shape == images.shape
            assert 0.01 < float((squeezed - images).abs().mean()) < 0.4


@pytest.mark.parametrize("shape", [(3, 9, 16), (2, 31)])
def test_textures_keep_the_spectrum_and_the_mean(shape: tuple[int, ...]) -> None:
    x, axes = points(4, *shape), tuple(range(2, 1 + len(shape)))
    textures = spoilt.random_phases(x, torch.Generator().manual_seed(0))
    assert textures.shape == x.shape
    assert torch.allclose(textures.mean(axes), x.mean(axes), atol=1e-5)
    both = [torch.fft.rfftn(each, dim=axes).abs() for each in (textures, x)]
    assert torch.allclose(*both, rtol=1e-3, atol=1e-3)
    assert float((textures - x).abs().mean()) > 0.1


def test_images_of_another_sort_differ_and_are_within_bounds() -> None:
    shape, seed = torch.Size((3, 32, 32)), torch.Generator().manual_seed(0)
    for make in (spoilt.house_numbers, *([spoilt.photographs] if find_spec("PIL") else [])):
        images = make(6, shape, seed)
        assert images.shape == (6, *shape)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        assert len(images.flatten(1).unique(dim=0)) == 6
        assert float(images.std((2, 3)).mean()) > 0.02
