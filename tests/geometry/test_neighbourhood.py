import doctest
import math
import warnings

import pytest
import torch
from torch import nn

from gradgeo.errors import ArgumentError, GradgeoWarning, ModelError
from gradgeo.geometry import neighbourhood
from gradgeo.geometry.neighbourhood import KINDS, directional_curvature, local_minimum, zeta

ZERO = torch.tensor([0])


def score(f):
    """f: (N, d) -> (N,) as a model: column 0 is f."""
    return lambda x: torch.stack([f(x), 0 * x.sum(1)], dim=1)


def around(function, x, **options):
    x = torch.as_tensor(x, dtype=torch.float64)
    return zeta(score(function), x, labels=torch.zeros(len(x), dtype=torch.long), loss="logit", **options)


def circle(n):
    """n unit vectors of the plane, and their angles."""
    angle = torch.arange(n).double() * (2 * math.pi / n) + 0.1
    return torch.stack([angle.cos(), angle.sin()], dim=1), angle


def network(seed=0, activation=nn.Tanh, classes=4, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 16), activation(), nn.Linear(16, classes)).double()


# Functions with known answers


def test_at_the_minimum_of_a_round_bowl_every_descent_leads_straight_back():
    assert torch.allclose(around(lambda x: x.square().sum(1), [[0.0, 0, 0]]), torch.ones(1, 16).double())


def test_at_a_maximum_every_descent_leads_straight_away():
    assert torch.allclose(around(lambda x: -x.square().sum(1), [[0.0, 0, 0]]), -torch.ones(1, 16).double())


@pytest.mark.parametrize(("a", "b"), [(1.0, 9.0), (1.0, -1.0), (2.0, -3.0), (-1.0, -5.0)])
@pytest.mark.parametrize("length", [1.0, 7.0])
def test_zeta_of_a_quadratic_in_closed_form(a, b, length):
    e, _ = circle(12)
    found = around(lambda x: a * x[:, 0] ** 2 + b * x[:, 1] ** 2, [[0.0, 0.0]], directions=e * length)
    closed = (a * e[:, 0] ** 2 + b * e[:, 1] ** 2) / (a**2 * e[:, 0] ** 2 + b**2 * e[:, 1] ** 2).sqrt()
    assert torch.allclose(found[0], closed, atol=1e-12)


def test_zeta_of_the_symmetric_saddle_is_the_cosine_of_twice_the_angle():
    e, angle = circle(8)
    found = around(lambda x: x[:, 0] ** 2 - x[:, 1] ** 2, [[0.0, 0.0]], directions=e)
    assert torch.allclose(found[0], (2 * angle).cos(), atol=1e-12)


def test_zeta_on_a_slope_is_the_cosine_with_the_gradient_at_every_radius():
    e, _ = circle(8)
    gradient = torch.tensor([3.0, 4.0]).double()
    for radius in (1e-6, 1.0):
        found = around(lambda x: x @ gradient, [[2.0, -1.0]], directions=e, radius=radius)
        assert torch.allclose(found[0], e @ gradient / 5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "f", "e", "value"),
    [
        ("quartic", lambda x: x.pow(4).sum(1), [[1.0, 0.0], [1.0, 1.0]], [1.0, 1.0]),
        ("valley", lambda x: x[:, 0] ** 2, [[1.0, 0.0], [0.0, 1.0], [-3.0, 4.0]], [1.0, 0.0, 0.6]),
        ("plateau", lambda x: 0 * x.sum(1), [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]),
        ("kink", lambda x: x.abs().sum(1), [[1.0, 0.0], [3.0, 4.0]], [1.0, 7 / (5 * math.sqrt(2))]),
        ("upturned kink", lambda x: -x.abs().sum(1), [[1.0, 0.0], [3.0, 4.0]], [-1.0, -7 / (5 * math.sqrt(2))]),
    ],
)
def test_degenerate_minima_and_kinks(name, f, e, value):
    found = around(f, [[0.0, 0.0]], directions=torch.tensor(e).double())
    assert torch.allclose(found[0], torch.tensor(value).double(), atol=1e-12)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_zeta_does_not_depend_on_the_size_of_the_loss(size):
    e, angle = circle(8)
    found = around(lambda x: size * (x[:, 0] ** 2 - x[:, 1] ** 2), [[0.0, 0.0]], directions=e)
    assert torch.allclose(found[0], (2 * angle).cos(), atol=1e-12)


def test_a_gradient_that_is_undefined_at_x_itself_does_not_matter():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = around(lambda x: x.square().sum(1).sqrt(), [[0.0, 0.0]])  # NaN at 0
    assert torch.allclose(found, torch.ones_like(found))


@pytest.mark.simulation
def test_the_theorem_is_not_necessary_where_the_slope_oscillates_without_end():
    """f = x^2 (2 + sin(1/x)), f(0) = 0 has its strict minimum at 0, and points next to it from which it falls away."""

    def f(x):
        return torch.where(x == 0, 0, x**2 * (2 + (1 / torch.where(x == 0, 1, x)).sin()))[:, 0]

    near = torch.linspace(1e-5, 1.001e-5, 500).double()[:, None]
    assert bool((f(near) > 0).all())
    found = torch.stack([around(f, [[0.0]], directions=torch.ones(1, 1).double(), radius=float(r)) for r in near])
    assert 0.2 < float((found == -1).double().mean()) < 0.8
    assert 0.2 < float((found == 1).double().mean()) < 0.8


@pytest.mark.parametrize(
    ("f", "verdict", "share"),
    [
        (lambda x: x.square().sum(1), True, 0.0),
        (lambda x: x.abs().sum(1), True, 0.0),
        (lambda x: x[:, 0] ** 4, True, 0.0),
        (lambda x: 0 * x.sum(1), True, 0.0),
        (lambda x: -x.square().sum(1), False, 1.0),
        (lambda x: x[:, 0] ** 2 - x[:, 1] ** 2, False, 0.5),
        (lambda x: x[:, 0], False, 0.5),
    ],
)
def test_verdict_and_share_of_negative_zeta(f, verdict, share):
    e, _ = circle(16)
    found = local_minimum(score(f), torch.zeros(1, 2).double(), ZERO, loss="logit", directions=e)
    assert bool(found.verdict) is verdict
    assert float(found.negative_share) == share


def test_the_verdict_is_of_a_radius():
    """Next to the bottom of a bowl the slope decides at small radii and the bowl at large ones."""
    x = torch.tensor([[0.01, 0.0]]).double()
    verdicts = [
        bool(local_minimum(score(lambda x: x.square().sum(1)), x, ZERO, loss="logit", radius=r).verdict)
        for r in (0.001, 10.0)
    ]
    assert verdicts == [False, True]


def test_evidence_of_a_saddle():
    e = torch.eye(2).double()
    model = score(lambda x: x[:, 0] ** 2 - 3 * x[:, 1] ** 2)
    found = local_minimum(model, torch.tensor([[1.0, 1.0]]).double(), ZERO, loss="logit", directions=e, radius=1e-3)
    assert float(found.curvature_min) == pytest.approx(-6, abs=1e-9)
    assert float(found.curvature_max) == pytest.approx(2, abs=1e-9)
    assert float(found.gradient_norm) == pytest.approx(math.hypot(2, 6))
    assert float(found.infimum) == pytest.approx(-6 / math.hypot(2, 6), abs=1e-3)


# Classifiers, against float64 references


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "logit"])
@pytest.mark.parametrize("temperature", [None, 3.0])
def test_zeta_and_curvature_agree_with_a_loop_over_autograd(loss, temperature):
    model, x = network(), torch.rand(3, 6).double()
    labels = torch.tensor([1, 0, 3])
    e = torch.randn(5, 6).double()

    def gradient(point, label):
        point = point.clone().requires_grad_()
        z = model(point[None])[0] / (temperature or 1)
        p, hot = z.softmax(0), nn.functional.one_hot(label, 4).double()
        value = {"cross_entropy": -p[label].log(), "mse": (p - hot).square().mean(), "logit": z[label]}[loss]
        return torch.autograd.grad(value, point)[0]

    options = {"labels": labels, "loss": loss, "temperature": temperature, "directions": e, "radius": 0.05}
    found, curved = zeta(model, x, **options), directional_curvature(model, x, **options)
    for n in range(3):
        for d in range(5):
            there = x[n] + 0.05 * math.sqrt(6) * e[d] / e[d].norm()
            g, back = gradient(there, labels[n]), x[n] - there
            expected = (-g @ back) / (g.norm() * back.norm())
            assert float(found[n, d]) == pytest.approx(float(expected), abs=1e-10)
            step = -back
            quotient = (g - gradient(x[n], labels[n])) @ step / step.norm() ** 2
            assert float(curved[n, d]) == pytest.approx(float(quotient), rel=1e-8, abs=1e-12)


def test_the_difference_quotient_tends_to_the_exact_hessian_product():
    """Lemma 2: the error falls in proportion to the radius; the reference is double backward."""
    model, x = network(), torch.rand(2, 6).double()
    e = torch.randn(4, 6).double()
    e = e / e.norm(dim=1, keepdim=True)
    labels = torch.tensor([2, 0])
    exact = torch.empty(2, 4).double()
    for n in range(2):
        point = x[n : n + 1].clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(point), labels[n : n + 1])
        (g,) = torch.autograd.grad(loss, point, create_graph=True)
        for d in range(4):
            (product,) = torch.autograd.grad((g[0] * e[d]).sum(), point, retain_graph=True)
            exact[n, d] = product[0] @ e[d]
    errors = [
        (directional_curvature(model, x, labels=labels, directions=e, radius=r) - exact).abs().max()
        for r in (1e-3, 1e-4, 1e-5)
    ]
    assert errors[2] < 1e-4 * exact.abs().max()
    assert 5 < errors[0] / errors[1] < 20
    assert 5 < errors[1] / errors[2] < 20


def test_the_logits_of_a_relu_network_have_no_curvature_within_a_piece():
    model, x = network(activation=nn.ReLU), torch.rand(2, 6).double()
    curved = directional_curvature(model, x, loss="logit", radius=1e-7)
    assert float(curved.abs().max()) < 1e-6
    bent = directional_curvature(model, x, loss="logit", radius=1.0)
    assert float(bent.abs().max()) > 1e-3


def test_confident_float32_inputs_keep_their_zeta():
    reference, x = network(), torch.rand(4, 6).double()
    with torch.no_grad():
        reference[2].weight.mul_(200)
        reference[2].bias.mul_(200)
    model = network()
    model.load_state_dict(reference.state_dict())
    model, single = model.float(), x.float()
    logits = model(single)
    label = logits.argmax(1)
    assert bool((logits.softmax(1).gather(1, label[:, None]) == 1).any())  # p - e_i would be zero
    assert torch.allclose(zeta(model, single), zeta(reference, x).float(), atol=2e-5)


def test_labels_default_to_the_predicted_class():
    model, x = network(), torch.rand(5, 6).double()
    assert torch.equal(zeta(model, x), zeta(model, x, labels=model(x).argmax(1)))
    assert torch.equal(zeta(model, x, labels=model(x).argmax(1).int()), zeta(model, x))


# Directions


@pytest.mark.parametrize("kind", KINDS)
def test_how_far_each_kind_looks(kind):
    seen = []
    f = score(lambda x: x.sum(1))

    def model(x):
        seen.append(x.detach())
        return f(x)

    zeta(model, torch.zeros(1, 400).double(), kind=kind, directions=50, radius=0.3, chunk_size=50)
    moved = seen[1]
    rms = moved.square().mean(1).sqrt()
    assert float(rms.mean()) == pytest.approx(0.3, rel=0.05)
    if kind == "gaussian":
        assert float(rms.std()) > 1e-3
        assert float(moved.std()) == pytest.approx(0.3, rel=0.05)
    else:
        assert torch.allclose(rms, torch.full_like(rms, 0.3))
    assert (moved.abs().unique().numel() == 1) is (kind == "sign")


def test_directions_are_reproducible_and_follow_the_generator():
    model, x = network(), torch.rand(2, 6).double()
    assert torch.equal(zeta(model, x), zeta(model, x))
    seeds = [zeta(model, x, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])


def test_a_result_depends_neither_on_the_batch_nor_on_the_chunks():
    model, x = network(), torch.rand(7, 6).double()
    whole = zeta(model, x)
    for chunk_size in (1, 3, 1000):
        assert torch.allclose(zeta(model, x, chunk_size=chunk_size), whole, atol=1e-12)
    assert torch.allclose(zeta(model, x[4:5]), whole[4:5], atol=1e-12)


def test_no_pass_is_larger_than_the_chunk():
    sizes = []
    inner = network()

    def model(x):
        sizes.append(len(x))
        return inner(x)

    zeta(model, torch.rand(6, 6).double(), directions=9, chunk_size=4)  # batches of 1 would be padded to 2
    assert max(sizes) == 4
    assert sum(sizes) == 6 * (1 + 9)


def test_any_input_shape_and_an_empty_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    assert zeta(model, torch.rand(2, 3, 2, 2), directions=5).shape == (2, 5)
    assert zeta(model, torch.rand(2, 3, 2, 2), directions=torch.rand(5, 3, 2, 2)).dtype == torch.float32
    assert zeta(model, torch.rand(0, 3, 2, 2), directions=5).shape == (0, 5)
    assert local_minimum(model, torch.rand(0, 3, 2, 2)).verdict.shape == (0,)


# Bad samples and bad arguments


def test_bad_samples_are_nan_with_one_warning_and_disturb_nobody():
    model, x = network(), torch.rand(4, 6).double()
    good = zeta(model, x)
    x[1, 2], x[3, 0] = torch.nan, torch.inf
    with pytest.warns(GradgeoWarning, match="2 of 4 inputs") as caught:
        found = zeta(model, x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert bool(found[[1, 3]].isnan().all())
    assert torch.allclose(found[[0, 2]], good[[0, 2]], atol=1e-12)
    with pytest.warns(GradgeoWarning, match="2 of 4 inputs"):
        verdict = local_minimum(model, x)
    assert verdict.verdict[[1, 3]].tolist() == [False, False]
    assert bool(verdict.negative_share[[1, 3]].isnan().all() and verdict.negative_share[[0, 2]].isfinite().all())
    with pytest.warns(GradgeoWarning, match="2 of 4 inputs"):
        assert bool(directional_curvature(model, x)[[1, 3]].isnan().all())


def test_a_radius_below_the_precision_of_the_input_is_nan():
    model = score(lambda x: x.square().sum(1))
    with pytest.warns(GradgeoWarning, match="too large for this radius"):
        found = zeta(model, torch.full((1, 2), 1e6), labels=ZERO, loss="logit", radius=1e-6)
    assert bool(found.isnan().any())


def test_a_point_with_infinite_logits_spoils_only_its_direction():
    model = score(lambda x: torch.where(x[:, 0] > 0, torch.inf, x[:, 0]))
    e = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    with pytest.warns(GradgeoWarning, match="1 of 1 inputs"):
        found = zeta(model, torch.zeros(1, 2).double(), labels=ZERO, loss="logit", directions=e)
    assert found.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0}, "zeta: expected radius to be a positive number, got 0"),
        ({"radius": float("nan")}, "expected radius to be a positive number"),
        ({"kind": "cauchy"}, "expected kind to be one of 'gaussian', 'sphere', 'sign', got 'cauchy'"),
        ({"directions": 0}, "expected directions to be a positive integer or a tensor"),
        ({"directions": True}, "expected directions to be a positive integer or a tensor"),
        ({"directions": torch.rand(3, 5)}, r"expected directions to be a floating-point tensor of shape \(D, 6\)"),
        ({"directions": torch.zeros(3, 6)}, "expected directions to be finite, each with an entry other than zero"),
        ({"directions": torch.full((1, 6), torch.inf)}, "expected directions to be finite"),
        (
            {"labels": torch.tensor([0, 4])},
            r"expected labels to be within 0..3 \(the model has 4 classes\), got '0..4'",
        ),
        ({"labels": torch.tensor([-1, 0])}, "got '-1..0'"),
        ({"labels": torch.tensor([0])}, r"expected labels to be of shape \(2,\)"),
        ({"labels": torch.tensor([0.0, 1.0])}, "expected labels to be an integer tensor"),
        ({"labels": [0, 1]}, "expected labels to be an integer tensor"),
        ({"loss": "hinge"}, "expected loss to be one of"),
        ({"chunk_size": 0}, "expected chunk_size to be a positive integer or None"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ArgumentError, match=message):
        zeta(network(), torch.rand(2, 6), **options)


def test_bad_tolerance_and_bad_models():
    with pytest.raises(ArgumentError, match=r"local_minimum: expected tolerance to be in \[0, 1\), got 1"):
        local_minimum(network(), torch.rand(2, 6), tolerance=1)
    with pytest.raises(ModelError, match="directional_curvature: the model's output cannot be differentiated"):
        directional_curvature(lambda x: x.detach(), torch.rand(2, 6))


def test_examples():
    assert doctest.testmod(neighbourhood).failed == 0
    assert doctest.testmod(neighbourhood).attempted > 8
