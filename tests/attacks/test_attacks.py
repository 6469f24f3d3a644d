import doctest
import math
from functools import partial
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import gradgeo
from benchmarks.attacks import speed
from gradgeo import attacks
from gradgeo.attacks import deepfool
from gradgeo.attacks.csa import alignment, csa_loss, draw_classes
from gradgeo.attacks.descent import AttackBatch, gradient_of
from gradgeo.attacks.losses import LOSSES, class_loss
from gradgeo.attacks.norms import NORMS, ball
from gradgeo.classifier.wrapper import Classifier
from gradgeo.errors import ArgumentError, GradgeoWarning, ModelError
from gradgeo.geometry.surrogates import SmoothReLU, _BentReLU


def network(seed=0, activation=nn.ReLU, classes=5, scale=1.0):
    """A small convolutional classifier of (3, 6, 6) images, with a dropout that only training mode would feel."""
    torch.manual_seed(seed)
    first, second, head = nn.Conv2d(3, 8, 3), nn.Linear(128, 16), nn.Linear(16, classes)
    with torch.no_grad():
        first.bias.copy_(-0.5 * first.weight.sum((1, 2, 3)))  # centred inputs: no class wins everywhere
        second.bias.copy_(-0.3 * second.weight.sum(1))
        head.weight.mul_(20 * scale)
        head.bias.mul_(scale)
    return nn.Sequential(first, activation(), nn.Dropout(0.5), nn.Flatten(), second, activation(), head)


def inputs(n=9, seed=1):
    return torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def predicted(model, x):
    model = model.eval()
    with torch.no_grad():
        return model(x).argmax(1)


def linear(weight, bias=None):
    model = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return model


# What holds for every attack

TABLE = {
    "fgsm": (partial(attacks.fgsm, epsilon=0.2), "linf", 0.2),
    "fgsm l2": (partial(attacks.fgsm, epsilon=1.0, norm="l2"), "l2", 1.0),
    "pgd": (partial(attacks.pgd, epsilon=0.05, steps=8), "linf", 0.05),
    "pgd from x": (partial(attacks.pgd, epsilon=0.05, steps=8, random_start=False), "linf", 0.05),
    "pgd l2": (partial(attacks.pgd, epsilon=0.7, steps=8, norm="l2"), "l2", 0.7),
    "pgd mse": (partial(attacks.pgd, epsilon=0.1, steps=8, loss="mse"), "linf", 0.1),
    "pgd margin": (partial(attacks.pgd, epsilon=0.1, steps=8, loss="margin", norm="l2"), "l2", 0.1),
    "pgd targeted": (partial(attacks.pgd, epsilon=0.2, steps=8, targeted=True), "linf", 0.2),
    "pgd early stop": (partial(attacks.pgd, epsilon=0.2, steps=8, early_stop=True), "linf", 0.2),
    "pgd restarts": (partial(attacks.pgd, epsilon=0.02, steps=4, restarts=3), "linf", 0.02),
    "minimum norm": (attacks.minimum_norm, "l2", math.inf),
    "minimum norm, bounded": (partial(attacks.minimum_norm, epsilon=0.3), "l2", 0.3),
    "minimum norm, targeted": (partial(attacks.minimum_norm, targeted=True), "l2", math.inf),
    "csa": (partial(attacks.csa, epsilon=0.2, steps=3), "linf", 0.2),
    "csa of all maps": (partial(attacks.csa, epsilon=0.2, steps=3, maps=None, temperature=3.0), "linf", 0.2),
    "csa l2": (partial(attacks.csa, epsilon=1.0, steps=3, norm="l2", sharpness=None, maps=3), "l2", 1.0),
}
every_attack = pytest.mark.parametrize("name", TABLE)


@pytest.mark.grid
@every_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_keeps_budget_bounds_dtype_and_tells_the_truth(name, dtype):
    attack, norm, epsilon = TABLE[name]
    model, x = network(), inputs().to(dtype)
    labels = predicted(model, x.float())
    result = attack(model, x, labels)
    assert result.adversarial.dtype == result.distance.dtype == dtype
    assert result.adversarial.shape == x.shape
    assert not result.adversarial.requires_grad
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1
    moved = (result.adversarial.double() - x.double()).flatten(1)
    exact = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
    assert float(exact.max()) <= epsilon * (1 + 1e-12)
    assert torch.allclose(result.distance.double(), exact, rtol=1e-6)
    now = predicted(model, result.adversarial.float())
    goal = now != labels if result.targets is None else now == result.targets
    assert torch.equal(result.success, goal)
    assert bool(goal.any())
    assert not bool(result.masked.any())
    if result.targets is not None:
        assert not bool((result.targets == labels).any())


@every_attack
def test_the_caller_is_left_as_they_were(name):
    attack, x = TABLE[name][0], inputs()
    model = network()
    labels = predicted(model, x)
    model.train()
    model(x).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    state, given = torch.get_rng_state(), x.clone()
    with torch.no_grad():
        result = attack(model, x, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, given)
    assert model.training
    assert all(p.requires_grad and torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert result.adversarial.data_ptr() != x.data_ptr()


@pytest.mark.grid
@every_attack
def test_the_same_call_gives_the_same_answer_whatever_the_batches(name):
    attack, x = TABLE[name][0], inputs()
    model = network().double()
    labels = predicted(model, x.double())
    first = attack(model, x, labels)
    again = attack(model, x, labels, batch_size=2)
    assert torch.allclose(first.adversarial, again.adversarial, atol=1e-6)
    assert torch.equal(first.success, again.success)


@pytest.mark.grid
@every_attack
def test_bad_rows_are_returned_unchanged_with_one_warning_and_disturb_nobody(name):
    attack, x = TABLE[name][0], inputs()
    model = network().double()
    labels = predicted(model, x.double())
    good = attack(model, x, labels)
    bad = x.clone()
    bad[2, 0, 0, 0], bad[5, 1, 2, 3] = torch.nan, torch.inf
    with pytest.warns(GradgeoWarning, match="2 of 9 inputs have NaN or infinite values or logits") as caught:
        found = attack(model, bad, labels)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert found.success[[2, 5]].tolist() == found.masked[[2, 5]].tolist() == [False, False]
    assert found.distance[[2, 5]].tolist() == [0, 0]
    assert torch.equal(found.adversarial[[2, 5]].nan_to_num(9), bad[[2, 5]].nan_to_num(9))
    rest = [0, 1, 3, 4, 6, 7, 8]
    assert torch.allclose(found.adversarial[rest], good.adversarial[rest], atol=1e-6)


@every_attack
def test_an_empty_batch(name):
    result = TABLE[name][0](network(), inputs(0), torch.zeros(0, dtype=torch.long))
    assert result.adversarial.shape == (0, 3, 6, 6)
    assert result.success.shape == result.distance.shape == result.masked.shape == (0,)


@every_attack
def test_unbounded_signals(name):
    """1-D signals of any size, here with a large offset that leaves float32 few digits for the perturbation."""
    attack, norm, epsilon = TABLE[name]
    torch.manual_seed(3)
    x = 500 + 0.3 * torch.randn(6, 1, 40)
    inner = nn.Linear(40, 4)
    model = lambda x: 20 * inner((x - 500).flatten(1))  # noqa: E731
    result = attack(model, x, model(x).argmax(1), bounds=None)
    moved = (result.adversarial.double() - x.double()).flatten(1)
    assert float((moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)).max()) <= epsilon
    assert bool(result.success.any())
    assert bool((result.adversarial > 1).all())


@every_attack
def test_a_gradient_that_vanishes_is_reported(name):
    def model(x):
        z = x.flatten(1)[:, :5] - 5 * torch.eye(5)[0]
        open_rows = (x[:, :1, :1, :1].flatten(1) < 0.5).to(x)
        return z.clamp(-1, 1) * open_rows + (z * 0 + torch.arange(5)) * (1 - open_rows)

    x = inputs()
    x[:, 0, 0, 0] = torch.tensor([0.2, 0.9, 0.2, 0.9, 0.9, 0.2, 0.2, 0.2, 0.2])
    labels = model(x).argmax(1)
    with pytest.warns(GradgeoWarning, match="gradient of 3 of 9 inputs is zero everywhere") as caught:
        result = TABLE[name][0](model, x, labels)
    assert len(caught) == 1
    assert result.masked.tolist() == (x[:, 0, 0, 0] == 0.9).tolist()
    assert not bool(result.success[result.masked].any())


def test_a_start_with_a_gradient_unmasks():
    """The score of class 1 is flat up to 0.5 and never wins: each start has a gradient with probability 1/2."""
    x = torch.full((40, 1), 0.5).double()
    model = lambda x: torch.cat([torch.ones_like(x) + 0 * x, F.relu(x - 0.5)], dim=1)  # noqa: E731
    labels = torch.zeros(40, dtype=torch.long)
    with pytest.warns(GradgeoWarning, match="gradient of .* of 40 inputs is zero"):
        once = attacks.pgd(model, x, labels, epsilon=0.1, steps=1)
    assert 10 < int(once.masked.sum()) < 30
    assert not bool(attacks.pgd(model, x, labels, epsilon=0.1, steps=1, restarts=16).masked.any())


@pytest.mark.grid
@pytest.mark.parametrize("name", [name for name in TABLE if not name.startswith("csa")])
def test_undefined_gradients_move_nothing(name):
    """sqrt has an infinite slope at 0, which becomes NaN times the zero behind it.

    (The double backward of CSA spreads such a NaN over the whole input, which is then reported as masked.)
    """
    x = inputs()
    x[:, :, 0] = 0

    def model(x):
        dead = (0 * x[:, :, 0].sqrt()).flatten(1).sum(1, keepdim=True)
        return network().eval()(x) + dead

    labels = model(x).argmax(1)
    result = TABLE[name][0](model, x, labels)
    assert bool(result.adversarial.isfinite().all())
    assert bool(result.success.any())
    if name in ("pgd from x", "minimum norm", "minimum norm, targeted"):
        assert not bool(result.adversarial[:, :, 0].any())


def test_a_model_may_work_in_place_on_its_input():
    model, x = network(), inputs()
    labels = predicted(model, x)
    plain = attacks.pgd(model, x, labels, epsilon=0.1, steps=4)
    in_place = attacks.pgd(lambda x: model(x.mul_(1.0)), x, labels, epsilon=0.1, steps=4)
    assert torch.equal(plain.adversarial, in_place.adversarial)


def test_a_point_where_the_model_breaks_down_is_no_success():
    def model(x):
        return torch.cat([torch.ones_like(x), torch.where(x > 0.55, torch.inf, x)], dim=1)

    result = attacks.pgd(model, torch.tensor([[0.5]]), torch.tensor([0]), epsilon=0.1, random_start=False, steps=4)
    assert float(result.distance) > 0.05
    assert result.success.tolist() == [False]


def test_half_precision_inputs_stay_in_budget():
    model, x = network(), inputs().half()
    result = attacks.pgd(model, x, predicted(model, x.float()), epsilon=0.05, steps=4)
    assert result.adversarial.dtype == torch.float16
    assert float((result.adversarial.double() - x.double()).abs().max()) <= 0.05
    assert torch.equal(result.success, predicted(model, result.adversarial.float()) != predicted(model, x.float()))


# Known answers


def test_fgsm_of_a_linear_model_is_epsilon_along_the_signs():
    w = torch.tensor([[1.0, -2.0, 0.0], [-1.0, 3.0, 0.0]]).double()
    x = torch.full((1, 3), 0.5).double()
    result = attacks.fgsm(linear(w), x, torch.tensor([1]), epsilon=0.1)
    assert torch.allclose(result.adversarial, x + 0.1 * torch.tensor([1.0, -1.0, 0.0]))
    towards = attacks.fgsm(linear(w), x, torch.tensor([0]), targets=torch.tensor([1]), epsilon=0.1)
    assert torch.allclose(towards.adversarial, x + 0.1 * torch.tensor([-1.0, 1.0, 0.0]))
    steep = attacks.fgsm(linear(w), x, torch.tensor([1]), epsilon=0.1, norm="l2")
    assert torch.allclose(steep.adversarial, x + 0.1 * torch.tensor([2.0, -5.0, 0.0]) / math.sqrt(29))


@pytest.mark.parametrize("loss", LOSSES)
def test_pgd_of_a_linear_model_ends_at_the_far_side_of_its_ball(loss):
    w = torch.tensor([[1.0, -2.0], [-1.0, 3.0]]).double()
    x = torch.tensor([[0.2, 0.1]]).double()
    flat = attacks.pgd(linear(w), x, torch.tensor([1]), epsilon=0.3, steps=20, loss=loss)
    assert torch.allclose(flat.adversarial, torch.tensor([[0.5, 0.0]]).double())  # cut at the bound 0
    assert float(flat.distance) == pytest.approx(0.3)
    away = torch.tensor([[2.0, -5.0]]).double() / math.sqrt(29)
    long = attacks.pgd(
        linear(w), x, torch.tensor([1]), epsilon=0.3, steps=20, loss=loss, norm="l2", bounds=None, random_start=False
    )
    assert torch.allclose(long.adversarial, x + 0.3 * away, atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
def test_minimum_norm_of_a_linear_model_is_the_distance_to_its_nearest_boundary(targeted):
    torch.manual_seed(0)
    w, b, x = torch.randn(4, 6).double(), torch.randn(4).double(), torch.randn(8, 6).double()
    model = linear(w, b)
    z = model(x).detach()
    labels = z.argmax(1)
    if targeted:  # two classes: one boundary
        model, z = linear(w[:2], b[:2]), z[:, :2]
        labels = z.argmax(1)
    lead = z.gather(1, labels[:, None]) - z
    rows = w[: z.shape[1]]
    width = (rows[labels][:, None] - rows[None]).norm(dim=2)
    nearest = torch.where(width > 0, lead / width, torch.inf).amin(1)
    result = attacks.minimum_norm(model, x, labels, bounds=None, targeted=targeted, overshoot=0.0)
    assert bool(result.success.all())
    assert torch.allclose(result.distance, nearest + deepfool.MARGIN, atol=1e-9)


def test_minimum_norm_leaves_what_is_misclassified_already_where_it_is():
    model, x = network(), inputs()
    wrong = (predicted(model, x) + 1) % 5
    result = attacks.minimum_norm(model, x, wrong)
    assert torch.equal(result.adversarial, x)
    assert bool(result.success.all())
    assert not bool(result.distance.any())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("targeted", [False, True])
def test_class_losses_have_the_gradient_of_their_definition(loss, targeted):
    z = (3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    samples = AttackBatch(z, classes, targeted, torch.arange(6))
    sign = 1 if targeted else -1
    p, hot = z.softmax(1), F.one_hot(classes, 5)
    value = {
        "cross_entropy": F.cross_entropy(z, classes, reduction="none"),
        "mse": (p - hot).square().mean(1),
        "margin": (z - hot * 1e9).amax(1) - z.gather(1, classes[:, None])[:, 0],
    }[loss]
    (exact,) = torch.autograd.grad(value.sum(), z)
    sized = gradient_of(class_loss(loss, sized=True)(z, z, samples), z)
    unit = gradient_of(class_loss(loss)(z, z, samples), z)
    assert torch.allclose(sized, sign * exact, rtol=1e-6)
    assert torch.allclose(F.normalize(unit), sign * F.normalize(exact), atol=1e-6)


def test_confident_predictions_do_not_mask_their_gradient():
    model, x = network(scale=5000), inputs()
    labels = predicted(model, x)
    leaf = x.clone().requires_grad_()
    (naive,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
    assert int((~naive.flatten(1).any(1)).sum()) >= 5  # what this test is about: rows without any gradient
    result = attacks.pgd(model, x, labels, epsilon=0.3, steps=10, random_start=False)
    mild = attacks.pgd(network(), x, labels, epsilon=0.3, steps=10, random_start=False)
    assert not bool(result.masked.any())
    assert int(result.success.sum()) >= int(mild.success.sum()) >= 6


def test_pgd_is_the_textbook_loop():
    model, x = network().eval(), inputs()
    labels = predicted(model, x)
    point = x.clone()
    for _ in range(10):
        point.requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(point), labels, reduction="sum"), point)
        point = (x + (point.detach() + 0.025 * g.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    found = attacks.pgd(model, x, labels, epsilon=0.1, steps=10, random_start=False)
    assert float((found.adversarial - point).abs().max()) < 1e-6


# Targets, starts, restarts, early stop


def test_random_targets_are_uniform_over_the_other_classes():
    labels = torch.arange(4).repeat(3000)
    drawn = attacks.random_targets(labels, 4)
    counts = torch.zeros(4, 4).index_put_((labels, drawn), torch.ones(len(labels)), accumulate=True)
    assert not bool(counts.diagonal().any())
    assert float((counts[~torch.eye(4, dtype=torch.bool)] - 1000).abs().max()) < 5 * math.sqrt(1000)
    assert torch.equal(drawn, attacks.random_targets(labels, 4))
    assert not torch.equal(drawn, attacks.random_targets(labels, 4, generator=torch.Generator().manual_seed(1)))


def test_random_targets_of_logits_avoid_the_predicted_class():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert not bool((attacks.random_targets(logits) == logits.argmax(1)).any())


def test_given_targets_are_kept_and_random_ones_follow_the_generator():
    model, x = network(), inputs()
    labels = predicted(model, x)
    wanted = (labels + 2) % 5
    result = attacks.pgd(model, x, labels, epsilon=0.3, steps=10, targets=wanted)
    assert torch.equal(result.targets, wanted)
    assert torch.equal(result.success, predicted(model, result.adversarial) == wanted)
    drawn = [
        attacks.fgsm(model, x, labels, epsilon=0.3, targeted=True, generator=torch.Generator().manual_seed(s)).targets
        for s in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert attacks.fgsm(model, x, labels, epsilon=0.3).targets is None


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_uniform_in_the_ball(norm):
    region = ball(norm, 0.5, None)
    drawn = region.draw(torch.zeros(4000, 3), torch.Generator().manual_seed(0))
    length = region.length(drawn)
    assert float(length.max()) <= 0.5
    # The share within a fraction r of the radius is r^3.
    assert float((length < 0.25).float().mean()) == pytest.approx(0.125, abs=0.02)
    assert float(drawn.mean(0).abs().max()) < 0.02


def recorded(model):
    """`model` as a function, and the list of the batch sizes it is asked for."""
    sizes, inner = [], model.eval().requires_grad_(False)

    def call(x):
        sizes.append(len(x))
        return inner(x)

    return call, sizes


def test_early_stop_drops_finished_samples_and_ends_them_at_their_first_success():
    model, x = network(), inputs(40)
    labels = predicted(model, x)
    call, sizes = recorded(model)
    options = {"epsilon": 0.1, "step_size": 0.01, "steps": 15, "random_start": False}
    stopped = attacks.pgd(call, x, labels, early_stop=True, **options)
    run, judge = sizes[1:-1], sizes[-1]
    assert judge == 40
    assert run == sorted(run, reverse=True)
    assert run[0] == 40
    assert run[-1] < 40
    shorter = [attacks.pgd(model, x, labels, **{**options, "steps": s}).success for s in range(1, 16)]
    first = torch.stack([torch.zeros(40, dtype=torch.bool), *shorter]).int().argmax(0)  # 0 for never
    full = attacks.pgd(model, x, labels, **options)
    assert bool((stopped.success >= full.success).all())
    done = stopped.success & (first > 0)
    assert bool(done.any())
    assert torch.allclose(stopped.distance[done], (0.01 * first[done]).clamp_max(0.1), atol=1e-6)


def test_early_stop_ends_when_all_are_done():
    model, x = network(), inputs()
    call, sizes = recorded(model)
    attacks.pgd(call, x, (predicted(model, x) + 1) % 5, epsilon=0.1, early_stop=True, random_start=False)
    assert sizes == [9, 9, 9]  # clean, the first step's forward, the fresh judgement


def test_restarts_go_on_with_failures_only():
    model, x = network(), inputs(40)
    labels = predicted(model, x)
    call, sizes = recorded(model)
    options = {"epsilon": 0.03, "steps": 2}
    once = attacks.pgd(model, x, labels, **options)
    more = attacks.pgd(call, x, labels, restarts=3, **options)
    assert bool((more.success >= once.success).all())
    assert torch.equal(more.adversarial[once.success], once.adversarial[once.success])
    assert 0 < int(once.success.sum()) < 40
    assert sizes[4:7] == 3 * [40 - int(once.success.sum())]
    assert len(sizes) <= 1 + 3 * 3


# CSA


def smooth_case():
    model = network(activation=nn.Tanh, classes=6, scale=0.2).double().eval().requires_grad_(False)
    return model, inputs(3).double()


def rest(logits, maps=None, seed=0):
    """`draw_classes`, each input with a generator of its own."""
    return draw_classes(logits.detach(), maps, [torch.Generator().manual_seed(seed + i) for i in range(len(logits))])


@pytest.mark.parametrize("maps", [None, 2, 3])
def test_csa_loss_is_the_mean_of_s1_of_the_unsigned_csm(maps):
    model, x = smooth_case()
    leaf = x.clone().requires_grad_()
    z = model(leaf)
    classes = rest(z, maps)
    value = csa_loss(leaf, z, classes)
    label = z.argmax(1)
    if maps is None:
        s1 = gradgeo.csm_statistics(gradgeo.csm(model, x, sign=False), label)[:, 0]
    else:  # the predicted class comes first, so that the pairs without it are S1
        chosen = torch.cat([label[:, None], classes], dim=1)
        matrix = gradgeo.csm(model, x, sign=False, classes=chosen)
        s1 = gradgeo.csm_statistics(matrix, torch.zeros(3, dtype=torch.long))[:, 0]
    assert torch.allclose(value, s1, atol=1e-12)


@pytest.mark.parametrize("maps", [None, 2])
def test_csa_temperature_divides_the_logits_as_in_csm(maps):
    model, x = smooth_case()
    labels = model(x).argmax(1)
    leaf = x.clone().requires_grad_()
    z = model(leaf)
    samples = AttackBatch(leaf, labels, False, torch.arange(3))
    found = {}
    for temperature in (1.0, 4.0):
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        aligned = alignment(Classifier(model), maps, temperature, None, generators)
        found[temperature] = aligned(leaf, z, samples)
        assert torch.equal(found[temperature], csa_loss(leaf, z / temperature, rest(z, maps)))
        if maps is None:
            matrix = gradgeo.csm(model, x, sign=False, temperature=temperature)
            assert torch.allclose(found[temperature], gradgeo.csm_statistics(matrix, labels)[:, 0], atol=1e-12)
    assert float((found[4.0] - found[1.0]).detach().abs().min()) > 1e-3


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("maps", [None, 3])
def test_csa_gradient_agrees_with_finite_differences(activation, maps):
    """Also of a ReLU network, whose kinks these points do not touch: there double backward is exact as well."""
    model = network(activation=activation, classes=6, scale=0.2).double().eval().requires_grad_(False)
    x = inputs(3).double()
    classes = rest(model(x), maps)

    def value(point):
        point = point.clone().requires_grad_()
        return csa_loss(point, model(point), classes).detach()

    leaf = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(csa_loss(leaf, model(leaf), classes).sum(), leaf)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        e = torch.randn(x.shape, generator=generator).double()
        along = (exact * e).flatten(1).sum(1)
        h = 1e-3 if activation is nn.Tanh else 1e-4
        near, far = ((value(x + s * e) - value(x - s * e)) / (2 * s) for s in (h, 2 * h))
        difference = (4 * near - far) / 3  # Richardson: error of order h^4
        assert torch.allclose(along, difference, rtol=1e-6, atol=1e-6 * float(along.abs().max()))


@pytest.mark.parametrize("maps", [2, 3])
def test_draw_classes_takes_every_class_and_every_pair_but_the_predicted_equally_often(maps):
    n, total = 6000, 5
    label = torch.arange(n) % total
    logits = F.one_hot(label, total) + torch.rand(n, total, generator=torch.Generator().manual_seed(7))
    drawn = rest(logits, maps)
    assert drawn.shape == (n, maps)
    assert not bool((drawn == label[:, None]).any())
    hot = F.one_hot(drawn, total)
    assert int(hot.sum(1).max()) == 1  # without repetition
    for predicted_class in range(total):
        member = hot.sum(1)[label == predicted_class].double()
        together = member.T @ member / len(member)
        keep = [i for i in range(total) if i != predicted_class]
        together = together[keep][:, keep]
        assert torch.allclose(together.diagonal(), torch.full((4,), maps / 4).double(), atol=0.06)
        pairs = together[~torch.eye(4, dtype=torch.bool)]
        assert torch.allclose(pairs, torch.full((12,), maps * (maps - 1) / 12).double(), atol=0.06)


def test_draw_classes_goes_on_drawing_and_each_input_by_itself():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    first, second = draw_classes(logits, 2, generators), draw_classes(logits, 2, generators)
    assert not torch.equal(first, second)
    assert torch.equal(first, rest(logits, 2))
    assert torch.equal(first[2:3], rest(logits[2:3], 2, seed=2))


@pytest.mark.parametrize("maps", [None, 4, 9])
def test_draw_classes_without_a_choice_are_all_classes_and_draw_nothing(maps):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    found = draw_classes(logits, maps, [])
    assert torch.equal(torch.cat([found, logits.argmax(1)[:, None]], 1).sort(1).values, torch.arange(5).expand(6, -1))


def test_the_gradient_of_two_maps_is_that_of_all_on_average():
    model, x = smooth_case()
    leaf = x[:1].repeat(600, 1, 1, 1).requires_grad_()  # one input, 600 draws
    z = model(leaf)
    (drawn,) = torch.autograd.grad(csa_loss(leaf, z, rest(z, 2)).sum(), leaf)
    one = x[:1].clone().requires_grad_()
    z = model(one)
    (full,) = torch.autograd.grad(csa_loss(one, z, rest(z)).sum(), one)
    drawn, full = drawn.flatten(1), full.flatten()
    error = (drawn.mean(0) - full).norm()
    spread = drawn.var(0).sum().sqrt()
    assert float(spread) > 0.5 * float(full.norm())  # single draws are far from it
    assert float(error) < 3 * float(spread) / math.sqrt(600)
    assert float(error) < 0.15 * float(full.norm())


@pytest.mark.parametrize("options", [{"maps": None}, {"maps": 2}, {"maps": 2, "restarts": 2}])
def test_csa_twice_is_csa_once_and_the_generator_decides_only_draws(options):
    model, x = network(), inputs()
    labels = predicted(model, x)
    targets = (labels + 1) % 5
    common = {"epsilon": 0.1, "steps": 4, "weight": 5.0, "targets": targets, **options}
    first, again = (attacks.csa(model, x, labels, **common) for _ in range(2))
    assert torch.equal(first.adversarial, again.adversarial)
    if "restarts" not in options:
        seeds = (1, 2)
        fixed = [
            attacks.csa(
                model, x, labels, random_start=False, generator=torch.Generator().manual_seed(s), **common
            ).adversarial
            for s in seeds
        ]
        assert torch.equal(fixed[0], fixed[1]) == (options["maps"] is None)


def test_csa_without_weight_is_targeted_pgd():
    model, x = network(), inputs()
    labels = predicted(model, x)
    targeted = attacks.pgd(model, x, labels, epsilon=0.1, steps=5, targeted=True)
    unweighted = attacks.csa(model, x, labels, epsilon=0.1, steps=5, weight=0)
    assert torch.equal(targeted.adversarial, unweighted.adversarial)
    nearly = attacks.csa(model.double(), x, labels, epsilon=0.1, steps=5, weight=1e-12)
    assert float((nearly.adversarial - targeted.adversarial).abs().max()) < 1e-5


def test_csa_descends_the_sum_of_both_losses():
    model, x = smooth_case()
    labels, targets = model(x).argmax(1), (model(x).argmax(1) + 1) % 6
    leaf = x.clone().requires_grad_()
    z = model(leaf)
    sum_of_both = F.cross_entropy(z, targets, reduction="none") - 0.7 * csa_loss(leaf, z, rest(z))
    (g,) = torch.autograd.grad(sum_of_both.sum(), leaf)
    options = {"epsilon": 1e-3, "steps": 1, "step_size": 1e-3, "norm": "l2", "bounds": None, "random_start": False}
    result = attacks.csa(model, x, labels, targets=targets, weight=0.7, maps=None, **options)
    assert torch.allclose(result.adversarial - x, -1e-3 * F.normalize(g.flatten(1)).view_as(x), atol=1e-9)


@pytest.mark.parametrize(("maps", "steps", "more"), [(None, 12, 0.02), (2, 40, 0.01)])
def test_csa_turns_the_signed_csm_by_its_weight_and_needs_the_smooth_relu_for_it(maps, steps, more):
    model, x = network(classes=6), inputs(24)
    labels = predicted(model, x)

    def alignment(**options):
        result = attacks.csa(model, x, labels, epsilon=0.15, maps=maps, steps=steps, **options)
        matrix = gradgeo.csm(model, result.adversarial)
        return float(gradgeo.csm_statistics(matrix, predicted(model, result.adversarial))[:, 0].mean())

    plain = alignment(weight=0.0)
    raised = alignment(weight=10.0)
    assert raised > plain + 0.05
    assert alignment(weight=-10.0) < plain - 0.05
    assert raised > alignment(weight=10.0, sharpness=None) + more


def test_smooth_relu_keeps_the_value_and_bends_the_derivatives():
    x = torch.tensor([[-2.0, -0.1, 0.0, 0.3, 1.0]]).double().requires_grad_()
    k = 5 / x.detach().square().mean().sqrt()
    for call in (
        torch.relu,
        F.relu,
        nn.ReLU(),
        nn.ReLU(inplace=True),
        lambda x: F.relu(input=x),
        lambda x: x.relu(),
        torch.relu_,
        lambda x: x.relu_(),
    ):
        with SmoothReLU(5.0):
            y = call(x.clone())
        assert torch.equal(y, x.clamp_min(0))
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert torch.allclose(first, (k * x).sigmoid())
        (second,) = torch.autograd.grad(first.sum(), x)
        assert torch.allclose(second, k * (k * x).sigmoid() * (-k * x).sigmoid())
    assert torch.autograd.grad(F.relu(x).sum(), x)[0].unique().tolist() == [0, 1]  # outside of it nothing changed


def test_smooth_relu_can_be_differentiated_as_often_as_softplus():
    x = torch.tensor([[-1.5, -0.2, 0.4, 1.0]]).double().requires_grad_()
    k = (5 / x.detach().square().mean().sqrt()).view(1, 1)
    slope = torch.tensor([[0.3, -1.0, 2.0, 0.7]]).double().requires_grad_()

    def first(x, slope):
        return torch.autograd.grad(_BentReLU.apply(x, k), x, slope, create_graph=True)[0]

    assert torch.autograd.gradcheck(first, (x, slope))
    assert torch.autograd.gradgradcheck(first, (x, slope))
    # Its value is not what it derives, so the first derivative is compared with softplus's own.
    assert torch.allclose(first(x, slope), torch.autograd.grad(F.softplus(k * x) / k, x, slope)[0], rtol=1e-12)


def test_smooth_relu_works_in_place_without_its_result():
    x = torch.tensor([[-2.0, 1.0]]).requires_grad_()
    with SmoothReLU(5.0):
        y = x.clone()
        y.relu_()
    assert y.tolist() == [[0.0, 1.0]]
    assert 0 < float(torch.autograd.grad(y.sum(), x)[0][0, 0]) < 0.1


def test_csa_needs_three_classes():
    with pytest.raises(ArgumentError, match="csa: expected model to be a classifier of at least 3 classes, got 2"):
        attacks.csa(linear(torch.randn(2, 4)), torch.rand(2, 4), torch.tensor([0, 1]), epsilon=0.1)


# Rounding


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(sorted(NORMS)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    epsilon=st.floats(1e-4, 2.0),
    offset=st.floats(-300, 300),
    seed=st.integers(0, 1000),
)
def test_rounded_points_are_within_the_exact_budget(norm, dtype, epsilon, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    x = (offset + torch.randn(3, 17, generator=generator)).to(dtype)
    point = x.float() + 3 * epsilon * torch.randn(3, 17, generator=generator)
    rounded = ball(norm, epsilon, None).round_into_ball(point, x)
    assert rounded.dtype == dtype
    moved = rounded.double() - x.double()
    assert float((moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)).max()) <= epsilon + 1e-12
    bounded = ball(norm, epsilon, (float(x.min()), float(x.max()))).round_into_ball(point, x)
    assert x.min() <= bounded.min() <= bounded.max() <= x.max()


# Bad arguments

pgd = partial(attacks.pgd, epsilon=0.1, steps=2)


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (attacks.pgd, {"epsilon": 0}, "pgd: expected epsilon to be a positive number, got 0"),
        (attacks.fgsm, {"epsilon": -0.1}, "fgsm: expected epsilon to be a positive number, got -0.1"),
        (attacks.pgd, {"epsilon": math.nan}, "expected epsilon to be a positive number, got nan"),
        (attacks.pgd, {"epsilon": None}, "expected epsilon to be a positive number, got None"),
        (attacks.pgd, {"epsilon": 1.5}, "expected epsilon to be at most 1, the width of the bounds in this norm"),
        (attacks.csa, {"epsilon": 11, "norm": "l2"}, "csa: expected epsilon to be at most 10.3923, the width"),
        (attacks.minimum_norm, {"epsilon": 0}, "minimum_norm: expected epsilon to be a positive number, got 0"),
        (attacks.minimum_norm, {"overshoot": -1}, "expected overshoot to be zero or a positive number, got -1"),
        (attacks.minimum_norm, {"candidates": 1}, "expected candidates to be at least 2, got 1"),
        (attacks.minimum_norm, {"steps": 0}, "expected steps to be a positive integer, got 0"),
        (pgd, {"steps": 0}, "expected steps to be a positive integer, got 0"),
        (pgd, {"steps": 2.5}, "expected steps to be a positive integer, got 2.5"),
        (pgd, {"step_size": 0}, "expected step_size to be a positive number, got 0"),
        (pgd, {"norm": "l1"}, "expected norm to be one of 'linf', 'l2', got 'l1'"),
        (pgd, {"loss": "hinge"}, "expected loss to be one of 'cross_entropy', 'mse', 'margin', got 'hinge'"),
        (pgd, {"bounds": (1, 0)}, r"expected bounds to be \(low, high\) with low < high, or None"),
        (pgd, {"bounds": (0, math.inf)}, "expected bounds to be"),
        (pgd, {"bounds": "ab"}, "expected bounds to be"),
        (pgd, {"bounds": (0.0, 0.5)}, r"expected x to be within bounds=\(0.0, 0.5\), got 'values from .* to .*'"),
        (pgd, {"batch_size": 0}, "expected batch_size to be a positive integer, got 0"),
        (pgd, {"restarts": 0}, "expected restarts to be a positive integer, got 0"),
        (pgd, {"restarts": 2, "random_start": False}, "expected restarts to be 1 without random_start, got 2"),
        (pgd, {"targets": torch.tensor([0, 0])}, "expected targets to be classes other than the labels, got '1 of 2"),
        (pgd, {"targets": torch.tensor([2, 7])}, "expected targets to be within 0..4"),
        (pgd, {"targets": torch.tensor([2])}, r"expected targets to be of shape \(2,\)"),
        (pgd, {"labels": torch.tensor([0, 5])}, r"expected labels to be within 0..4 \(the model has 5 classes\)"),
        (pgd, {"labels": torch.tensor([0, -1])}, "got '-1..0'"),
        (pgd, {"labels": torch.tensor([0.0, 1.0])}, "expected labels to be an integer tensor"),
        (pgd, {"x": torch.zeros(2, 3, 6, 6, dtype=torch.uint8)}, "expected x to be a floating-point tensor"),
        (partial(attacks.csa, epsilon=0.1), {"weight": math.inf}, "expected weight to be a finite number"),
        (partial(attacks.csa, epsilon=0.1), {"maps": 1}, "csa: expected maps to be at least 2, or None for all, got 1"),
        (partial(attacks.csa, epsilon=0.1), {"maps": 0}, "expected maps to be at least 2, or None for all, got 0"),
        (
            partial(attacks.csa, epsilon=0.1),
            {"maps": True},
            "expected maps to be at least 2, or None for all, got True",
        ),
        (partial(attacks.csa, epsilon=0.1), {"maps": "x"}, "expected maps to be at least 2, or None for all, got 'x'"),
        (partial(attacks.csa, epsilon=0.1), {"temperature": 0}, "csa: expected temperature to be a positive number"),
        (partial(attacks.csa, epsilon=0.1), {"temperature": -1.0}, "expected temperature to be a positive number"),
        (partial(attacks.csa, epsilon=0.1), {"temperature": True}, "expected temperature to be a positive number"),
        (
            partial(attacks.csa, epsilon=0.1),
            {"temperature": "x"},
            "expected temperature to be a positive number, got 'x'",
        ),
        (partial(attacks.csa, epsilon=0.1), {"temperature": None}, "expected temperature to be a positive number"),
        (partial(attacks.csa, epsilon=0.1), {"sharpness": 0}, "expected sharpness to be a positive number"),
    ],
)
def test_bad_arguments(attack, options, message):
    given = {"x": inputs(2), "labels": torch.tensor([0, 1]), **options}
    with pytest.raises(ArgumentError, match=message):
        attack(network(), given.pop("x"), given.pop("labels"), **given)


def test_bad_arguments_of_random_targets():
    with pytest.raises(ArgumentError, match="random_targets: expected num_classes to be at least 2, got None"):
        attacks.random_targets(torch.tensor([0, 1]))
    with pytest.raises(ArgumentError, match=r"expected labels to be within 0..1 .*, got '0..2'"):
        attacks.random_targets(torch.tensor([0, 2]), 2)
    with pytest.raises(ArgumentError, match="expected labels to be an integer tensor"):
        attacks.random_targets([0, 1], 2)


def test_models_that_csa_cannot_differentiate():
    x, labels = inputs(2), torch.tensor([0, 1])
    weight = torch.ones(108, 5, requires_grad=True)
    with pytest.raises(ModelError, match="csa: the model's output does not depend on its input"):
        attacks.csa(lambda x: x.detach().flatten(1) @ weight, x, labels, epsilon=0.1)

    class ThroughNumpy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, above):
            return torch.from_numpy(above.numpy())

    def once(x):
        return 5 * ThroughNumpy.apply(x).flatten(1)[:, :5].square()

    assert not bool(pgd(once, x, labels).masked.any())
    with pytest.raises(ModelError, match=r"csa: the model cannot be differentiated: Can't call numpy\(\)"):
        attacks.csa(once, x, labels, epsilon=0.1)


@every_attack
def test_models_that_refuse_an_empty_batch(name):
    def model(x):
        return 5 * x.view(len(x), -1)[:, :5]  # nothing tells what -1 stands for if there are no inputs

    result = TABLE[name][0](model, inputs(0), torch.zeros(0, dtype=torch.long))
    assert result.adversarial.shape == (0, 3, 6, 6)
    with pytest.warns(GradgeoWarning, match="2 of 2 inputs have NaN or infinite values"):
        result = TABLE[name][0](model, inputs(2) * torch.nan, torch.tensor([0, 1]))
    assert result.success.tolist() == [False, False]


def test_models_without_gradient():
    with pytest.raises(ModelError, match="pgd: the model's output cannot be differentiated"):
        pgd(lambda x: x.detach().flatten(1), inputs(2), torch.tensor([0, 1]))
    weight = torch.ones(108, 5, requires_grad=True)
    with pytest.raises(ModelError, match="does not depend on its input, so there is no gradient to follow"):
        pgd(lambda x: x.detach().flatten(1) @ weight, inputs(2), torch.tensor([0, 1]))


# Speed


def speed_ratio(n, steps):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4),
        nn.Flatten(), nn.Linear(16 * 64, 10),
    ).eval()  # fmt: skip
    x = torch.rand(n, 3, 32, 32)
    return speed(model, x, predicted(model, x), steps=steps, rounds=5)


@pytest.mark.simulation
@pytest.mark.parametrize(("n", "steps"), [(1, 100), (32, 12)])
def test_pgd_is_nearly_as_fast_as_a_bare_loop(n, steps):
    assert any(speed_ratio(n, steps) >= 0.75 for _ in range(4))  # the machine may be busy


@pytest.mark.parametrize("name", ["csa", "deepfool", "pgd", "runner"])
def test_examples(name):
    found = doctest.testmod(import_module(f"gradgeo.attacks.{name}"))
    assert found.attempted >= 4
    assert found.failed == 0
