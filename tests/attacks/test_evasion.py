"""The attack that knows the detector: within budget, misclassified, and less suspicious than PGD."""

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import Detector, GradgeoError, attacks
from gradgeo.detector.evidence import EVIDENCE, Evidence


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 5))
    x = inputs(400, 3)
    y = (x[:, :5] * 3 + x[:, 5:10]).argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def inputs(n: int, seed: int) -> Tensor:
    return torch.rand(n, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(network()).fit(inputs(400, 1))


def test_differentiable_score_has_the_value_of_the_score(fitted: Detector) -> None:
    x = inputs(6, 2).requires_grad_()
    score = fitted.differentiable_score(x, sharpness=None)
    assert torch.allclose(score.detach(), fitted.outlier_score(x.detach()), atol=1e-9)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert gradient.any()


def test_its_gradient_is_that_of_finite_differences_where_there_is_one() -> None:
    """On evidence without signs, in float64, with smooth activations."""
    EVIDENCE["logits"] = Evidence("logits", ("top", "second"), lambda seen: seen.forward.logits.topk(2).values)
    try:
        model = network(nn.Tanh).double()
        detector = Detector(model, evidence=["logits"]).fit(inputs(300, 1).double())
        x = inputs(3, 2).double().requires_grad_()
        (gradient,) = torch.autograd.grad(detector.differentiable_score(x).sum(), x)
        step = 1e-7
        for j in range(16):
            e = torch.zeros(16, dtype=torch.float64)
            e[j] = step
            change = detector.outlier_score(x.detach() + e) - detector.outlier_score(x.detach() - e)
            assert torch.allclose(gradient[:, j], change / (2 * step), rtol=1e-3, atol=1e-3)
    finally:
        del EVIDENCE["logits"]


@pytest.mark.simulation
@pytest.mark.parametrize("options", [{}, {"gradient": "estimated", "draws": 3}, {"norm": "l2"}, {"targeted": True}])
def test_it_looks_more_trusted_than_pgd(fitted: Detector, options: dict) -> None:
    model, x = fitted.model, inputs(24, 4)
    labels = model(x).argmax(1)
    epsilon = 1.0 if options.get("norm") == "l2" else 0.3
    plain = {k: v for k, v in options.items() if k in ("norm", "targeted")}
    pgd = attacks.pgd(model, x, labels, epsilon=epsilon, steps=30, **plain)
    result = attacks.evasion(fitted, x, labels, epsilon=epsilon, steps=30, **options)
    assert result.success.double().mean() >= pgd.success.double().mean() - 0.15
    assert (result.distance <= epsilon + 1e-6).all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    both = result.success & pgd.success
    assert (
        fitted.outlier_score(result.adversarial[both]).mean() < fitted.outlier_score(pgd.adversarial[both]).mean() - 1
    )


def test_evidence_without_a_gradient_can_be_probed() -> None:
    def rounded(seen: object) -> Tensor:
        return (seen.forward.logits.detach().topk(2).values * 10).round() / 10

    EVIDENCE["rounded"] = Evidence("rounded", ("top", "second"), rounded)
    try:
        detector = Detector(network(), evidence=["rounded"]).fit(inputs(300, 1))
        x = inputs(8, 4)
        labels = detector.model(x).argmax(1)
        result = attacks.evasion(detector, x, labels, epsilon=0.3, steps=20, gradient="estimated", draws=4)
        assert result.success.any()
    finally:
        del EVIDENCE["rounded"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "guessed"}, r"evasion: expected gradient to be one of 'exact', 'estimated'"),
        ({"draws": 0}, r"evasion: expected draws to be a positive integer"),
        ({"epsilon": -1.0}, r"evasion: expected epsilon"),
    ],
)
def test_bad_arguments(fitted: Detector, options: dict, message: str) -> None:
    x = inputs(2, 5)
    with pytest.raises(GradgeoError, match=message):
        attacks.evasion(fitted, x, torch.zeros(2).long(), **{"epsilon": 0.1, **options})


def test_an_unfitted_detector() -> None:
    with pytest.raises(GradgeoError, match="not fitted"):
        gradgeo.attacks.evasion(Detector(network()), inputs(2, 5), torch.zeros(2).long(), epsilon=0.1)


def test_the_score_of_a_float64_model_has_the_slope_of_the_float32_one() -> None:
    slopes = {}
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(400, 24), nn.ReLU(), nn.Linear(24, 5)).to(dtype).eval()
        generator = torch.Generator().manual_seed(1)
        detector = Detector(model, evidence="paper").fit(torch.rand(300, 400, generator=generator).to(dtype))
        x = torch.rand(4, 400, generator=generator).to(dtype).requires_grad_()
        (slopes[dtype],) = torch.autograd.grad(detector.differentiable_score(x).sum(), x)
    sizes = [float(slope.abs().sum()) for slope in slopes.values()]
    assert 0.2 < sizes[1] / sizes[0] < 5, sizes  # rounded to a grid, statistics keep the slope of those that are not
