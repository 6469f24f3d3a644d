"""Each evidence against what it should be: closed forms of linear models, autograd, and the theory's own functions."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import Detector, GradgeoError
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.detector.evidence import EVIDENCE, PRESETS, Evidence
from gradgeo.detector.fusion import FLOOR
from gradgeo.detector.measurements import DRAWS, RADII, EvidenceContext, margin, shift, shiftable
from gradgeo.detector.one_class.base import MirroredTail, UpperTail
from gradgeo.detector.results import likely_cause
from gradgeo.detector.weighing import CAUSES
from gradgeo.errors import ModelError
from gradgeo.geometry.autograd import AutogradJacobian
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.neighbourhood import Neighbours
from gradgeo.geometry.options import Maps
from helpers import nets


def network(classes: int = 4) -> nn.Module:
    return nets.network(classes, width=24).double()


def inputs(n: int, seed: int = 1) -> Tensor:
    return nets.inputs(n, seed, dtype=torch.float64)


def context(
    model: nn.Module,
    x: Tensor,
    *,
    classes: int | None = None,
    temperature: float = 2.0,
    loss: Loss | None = None,
    **options,
) -> EvidenceContext:
    classifier = Classifier.of(model)
    with preserve_state(x):
        maps = Maps(loss or Loss("cross_entropy", temperature), classes)
        batch = classifier.prepare(x)
        return EvidenceContext(AutogradJacobian(classifier.optimized(batch), batch, layers=True), maps, **options)


def available(ctx: EvidenceContext) -> dict[str, Evidence]:
    return {name: evidence for name, evidence in EVIDENCE.items() if evidence.available(ctx.forward)}


def test_boundary_distances_of_a_linear_model_are_exact() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 5).double()
    x = inputs(6)
    z, w = layer(x.flatten(1)).detach(), layer.weight.detach()
    k = z.argmax(1)
    expected = []
    for i in range(6):
        others = [j for j in range(5) if j != k[i]]
        expected.append(sorted(float((z[i, k[i]] - z[i, j]) / (w[k[i]] - w[j]).norm()) for j in others))
    found = context(nn.Sequential(nn.Flatten(), layer), x).boundary_distances.exp()
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9)


@pytest.mark.parametrize(
    "loss",
    [Loss("cross_entropy", 2.0), Loss("logit", 0.5), Loss("mse", 2.0), Loss("cross_entropy", 2.0, rescale=True)],
    ids=lambda loss: f"{loss.name}{' rescaled' * loss.rescale}",
)
def test_boundary_distances_to_some_of_many_classes_are_those_of_autograd(loss: Loss) -> None:
    model, x = network(40), inputs(3)
    ctx = context(model, x, classes=5, loss=loss)
    z = model(x).detach()
    expected = []
    for i in range(3):
        k, *others = z[i].topk(5).indices.tolist()
        for j in others:
            leaf = x[i : i + 1].clone().requires_grad_()
            out = model(leaf)[0]
            (gradient,) = torch.autograd.grad(out[k] - out[j], leaf)
            expected.append((z[i, k] - z[i, j]) / gradient.norm())
    found = ctx.boundary_distances.exp()
    assert torch.allclose(found, torch.stack(expected).view(3, 4).sort(1).values, rtol=1e-9)


@pytest.mark.parametrize("classes", [5, 34])  # some, and so many that their products are computed without holding all
def test_of_many_classes_all_is_made_of_one_gradient_each(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, of = [], AutogradJacobian._rows

    def counted(self: AutogradJacobian, cotangents: Tensor) -> Tensor:
        rows.append(cotangents.shape[1])
        return of(self, cotangents)

    model, x = nets.network(60, width=48).double(), inputs(3)
    monkeypatch.setattr(AutogradJacobian, "_rows", counted)
    ctx = context(model, x, classes=classes)
    matrix, norms = ctx.csm, ctx.map_norms
    EVIDENCE["boundary"].measure(ctx)
    assert sum(rows) == classes
    apart = context(model, x, classes=classes)
    assert torch.equal(matrix, gradgeo.csm(model, x, temperature=2.0, classes=classes))
    squares = apart.forward.squares(apart._maps.loss.cotangents(apart.forward.logits, apart.classes)[0])
    assert torch.allclose(norms, squares.log() / 2, rtol=1e-12)


def test_map_norms_are_those_of_the_loss_without_its_confidence_factor() -> None:
    model, x, temperature = network(), inputs(3), 2.0
    norms = context(model, x, temperature=temperature).map_norms.exp()
    for i in range(3):
        for label in range(4):
            leaf = x[i : i + 1].clone().requires_grad_()
            z = model(leaf) / temperature
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(z, torch.tensor([label])), leaf)
            rest = 1 - z.detach().softmax(1)[0, label]
            assert float(norms[i, label]) == pytest.approx(float(gradient.norm() * temperature / rest), rel=1e-6)


def test_confidence_is_minus_the_log_odds() -> None:
    model, x = network(), inputs(5)
    p = model(x).softmax(1).amax(1).detach()
    assert torch.allclose(EVIDENCE["confidence"].measure(context(model, x))[:, 0], -(p / (1 - p)).log())


def test_mirrored_is_the_log_odds_of_the_mean_over_the_mirror_image() -> None:
    model, x = network(), inputs(5)
    own = model(x).softmax(1).detach()
    label = own.argmax(1, keepdim=True)
    mean = (own + model(x.flip(-1)).softmax(1).detach()).gather(1, label)[:, 0] / 2
    measured = EVIDENCE["mirrored"].measure(context(model, x))
    assert torch.allclose(measured[:, :1], EVIDENCE["confidence"].measure(context(model, x)))
    assert torch.allclose(measured[:, 1], -(mean / (1 - mean)).log())
    torch.manual_seed(0)
    sure = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4)).double()
    with torch.no_grad():
        sure[1].weight.mul_(1e4)
    extreme = EVIDENCE["mirrored"].measure(context(sure, x))  # where a probability is 1 or 0 its odds go on
    assert extreme.isfinite().all()
    assert extreme[:, 0].abs().amin() > 40


@pytest.mark.parametrize(("even", "column"), [(True, 1), (False, 0)])
def test_the_mirror_image_counts_where_trusted_pictures_keep_their_classes_there(even: bool, column: int) -> None:
    generator = torch.Generator().manual_seed(0)
    bright = torch.rand(400, 1, 1, 4, generator=generator)
    left = torch.tensor([1.0, 1.0, 1.0, 1.0] if even else [1.0, 1.0, -1.0, -1.0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([left, -left]) * 20)
        model[1].bias.copy_(torch.tensor([-40.0, 40.0]) if even else torch.zeros(2))
    detector = Detector(model, evidence=["mirrored"]).fit(bright)
    (member,) = detector.fitted_.fusion.members
    assert isinstance(member, MirroredTail)
    assert member.column.tolist() == [column]
    odds = EVIDENCE["mirrored"].measure(context(model, bright[:9]))
    tail = UpperTail(member.median, member.spread)
    zeros = torch.zeros(9, dtype=torch.long)
    assert torch.allclose(member.score(odds, zeros), tail.score(odds[:, [column]], zeros))


def test_presets_take_the_mirror_image_of_pictures_in_place_of_the_picture_alone() -> None:
    pictures = Detector(network(), evidence="lite").fit(inputs(200)).evidence_
    assert "mirrored" in pictures
    assert "confidence" not in pictures
    torch.manual_seed(0)
    signals = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    assert "mirrored" not in Detector(signals, evidence="lite").fit(torch.randn(200, 1, 8)).evidence_
    asked = Detector(network(), evidence=["confidence", "mirrored"]).fit(inputs(200)).evidence_
    assert asked == ("confidence", "mirrored")
    more = Detector(network(), evidence=[*PRESETS["lite"], "neighbours"]).fit(inputs(200)).evidence_
    assert "confidence" not in more
    with pytest.raises(GradgeoError, match="mirrored"):
        Detector(signals, evidence=["mirrored"]).fit(torch.randn(200, 1, 8))


def test_the_neighbourhood_is_zetas() -> None:
    """At the same displacements, Theorem 1's own function gives the same cosines."""
    model, x, radius = network(), inputs(4), 0.02
    near = context(model, x, radius=radius).neighbourhood
    for i, multiple in enumerate(RADII):
        moves = Neighbours(multiple * radius, DRAWS, generator=torch.Generator().manual_seed(i)).displacements(x)
        zetas = []
        for move in moves:  # of any length: `zeta` stretches directions to its radius
            length = float(move.square().mean().sqrt())
            zetas.append(gradgeo.zeta(model, x, radius=length, directions=move[None], temperature=2.0)[:, 0])
        assert torch.allclose(near.zeta[:, i], torch.stack(zetas, 1), atol=1e-9)
        after = torch.stack([margin(model(x + move).detach(), model(x).argmax(1)) for move in moves], 1)
        drop = margin(model(x).detach(), model(x).argmax(1))[:, None] - after
        assert torch.allclose(near.drop[:, i], drop, atol=1e-9)


def test_a_linear_model_does_not_turn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    assert torch.allclose(
        context(model, inputs(3), radius=0.5).neighbourhood.turn, torch.ones(3, len(RADII), DRAWS).double()
    )


def test_values_alone_are_the_same_values() -> None:
    model, x = network(), inputs(7)
    cheap = context(model, x, radius=0.05, gradients=False)
    assert torch.allclose(cheap.drop, context(model, x, radius=0.05).drop, atol=1e-12)
    assert "neighbourhood" not in vars(cheap)


def test_shifts_lose_what_leaves_and_repeat_the_edge() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert torch.equal(shift(x, 3, 1)[0, 0, 1], torch.tensor([4.0, 4, 5, 6]))
    assert torch.equal(shift(x, 3, -1)[0, 0, 1], torch.tensor([5.0, 6, 7, 7]))
    assert torch.equal(shift(x, 2, 1)[0, 0, :, 1], torch.tensor([1.0, 1, 5]))
    assert torch.equal(shift(x, 2, -1)[0, 0, :, 1], torch.tensor([5.0, 9, 9]))


def test_the_fall_of_the_margin_under_shifts() -> None:
    """Of each input and way it is what shifted inputs by themselves say; an axis of one entry is none."""
    model, x = network(), inputs(5)
    before = margin(model(x).detach(), model(x).argmax(1))
    falls = [
        before - margin(model(shift(x, axis, step)).detach(), model(x).argmax(1)) for axis in (2, 3) for step in (1, -1)
    ]
    assert torch.allclose(context(model, x).shift_drop, torch.stack(falls, 1), atol=1e-9)
    least = torch.stack(falls, 1).sort(1).values[:, :2].mean(1)
    assert torch.allclose(EVIDENCE["shifts"].measure(context(model, x))[:, 0], least, atol=1e-9)
    assert shiftable(torch.zeros(1, 3, 1, 8)) == [3]
    assert shiftable(torch.zeros(1, 30)) == []


def test_an_axis_without_neighbours_does_not_outvote_the_others() -> None:
    """A model that takes the mean over time, of inputs (N, time, embedding): along the embedding a shift is nonsense."""
    torch.manual_seed(0)
    head = nn.Linear(8, 3)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return head(x.mean((1, 2)))

    x = torch.randn(4, 1, 6, 1, generator=torch.Generator().manual_seed(0)) / 10 + torch.randn(4, 1, 1, 8)
    ctx = context(Mean(), x)
    time = ctx.shift_drop[:, :2].mean(1)
    assert (ctx.shift_drop[:, 2:].abs().amax(1) > 10 * time.abs()).all()
    assert (EVIDENCE["shifts"].measure(ctx)[:, 0] <= time + 1e-6).all()


def test_the_fall_of_the_margin_under_symmetries() -> None:
    """That of the mirrored input and of the one moved by a step along every axis, by themselves."""
    model, x = network().double(), inputs(6).double()
    before = margin(model(x).detach(), model(x).argmax(1))
    axes = shiftable(x)
    moved = x
    for axis in axes:
        moved = shift(moved, axis, 1)
    falls = [before - margin(model(there).detach(), model(x).argmax(1)) for there in (x.flip(-1), moved)]
    assert torch.allclose(EVIDENCE["symmetry"].measure(context(model, x)), torch.stack(falls, 1), atol=1e-9)


def test_moved_inputs_of_all_evidence_go_through_the_model_together() -> None:
    model, x = network(), inputs(6)
    apart, together = context(model, x), context(model, x, ways=("symmetries", "shifts"))
    assert torch.allclose(together.symmetry_drop, apart.symmetry_drop, atol=1e-9)
    assert torch.allclose(together.shift_drop, apart.shift_drop, atol=1e-9)
    seen = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return model(x)

    detector = Detector(Counted().eval(), evidence="fast").fit(inputs(300))
    detector.predict(x[:1])
    seen.clear()
    detector.predict(x[:1])
    assert seen == [1, 6]


def test_a_table_has_columns_in_place_of_shifts_and_a_spectrum() -> None:
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    detector = Detector(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))).fit(x)
    assert "shifts" not in detector.evidence_
    assert not {"symmetry", "spectrum"} & set(detector.evidence_)
    assert {"mahalanobis", "columns"} <= set(detector.evidence_)


def test_no_sample_depends_on_its_batch() -> None:
    model, x = network(), inputs(6)
    every = context(model, x, radius=0.05)
    for i in range(6):
        single = context(model, x[i : i + 1], radius=0.05)
        for name, evidence in available(every).items():
            assert torch.allclose(evidence.measure(single)[0], evidence.measure(every)[i], atol=1e-6), name


def test_every_evidence_has_as_many_features_as_names_and_is_documented() -> None:
    ctx = context(network(), inputs(4), radius=0.05)
    assert EVIDENCE.keys() - available(ctx).keys() == {"columns", "layer_3", "layer_4", "layer_5", "layer_6"}
    widths = {"layer_2": 4, "spectrum": 5}
    for name, evidence in available(ctx).items():
        measured = evidence.measure(ctx)
        assert name == evidence.name
        assert measured.shape == (4, len(evidence.features) or widths.get(name, 24)), name
        assert measured.isfinite().all(), name
        assert (evidence.measure.__doc__ or "").strip(), name


@pytest.mark.parametrize("classes", [2, 3, None])
def test_fewer_maps(classes: int | None) -> None:
    ctx = context(network(), inputs(4), classes=classes, radius=0.05)
    assert ctx.boundary_distances.shape == (4, (classes or 4) - 1)
    full = available(ctx).keys() & set(PRESETS["full"])
    assert all(EVIDENCE[name].measure(ctx).isfinite().all() for name in full)


def test_the_fast_preset_costs_a_backward_pass_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    vjp = InputJacobian.vjp

    def counted(self: InputJacobian, cotangents: Tensor) -> Tensor:
        rows.append(cotangents.shape[1])
        return vjp(self, cotangents)

    monkeypatch.setattr(InputJacobian, "vjp", counted)
    detector = Detector(network(), evidence="fast").fit(inputs(120))
    rows.clear()
    detector.predict(inputs(5, seed=2))
    assert sum(rows) <= 3


def test_the_lite_preset_costs_three_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, at = [], AutogradJacobian.logits_at

    def counted(self: AutogradJacobian, x: Tensor) -> Tensor:
        rows.append(len(x))
        return at(self, x)

    detector = Detector(network(), evidence="lite").fit(inputs(120))
    monkeypatch.setattr(AutogradJacobian, "logits_at", counted)
    monkeypatch.setattr(InputJacobian, "vjp", None)
    monkeypatch.setattr(AutogradJacobian, "again", None)
    detector.predict(inputs(5, seed=2))
    assert sum(rows) == 10  # beside the pass of the inputs themselves


class Scaled(nn.Module):
    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / self.scale)


@pytest.mark.parametrize("evidence", ["full", "fast", ("confidence", "stability", "neighbourhood")])
def test_the_unit_of_the_inputs_does_not_matter(evidence: str | tuple[str, ...]) -> None:
    """Radii are the classifier's own, so pixels in [0, 1] and in [0, 255] are judged alike."""
    plain, scaled = network(), Scaled(network(), 255.0)
    a = Detector(plain, evidence=evidence).fit(inputs(160))
    b = Detector(scaled, evidence=evidence).fit(inputs(160) * 255)
    if not isinstance(evidence, str):
        assert b.radius_ == pytest.approx(255 * a.radius_, rel=1e-6)
    x = inputs(40, seed=3)
    assert torch.allclose(a.outlier_score(x), b.outlier_score(x * 255), rtol=1e-4, atol=1e-4)


def test_a_model_without_a_linear_head() -> None:
    model = nn.Sequential(network(), nn.Tanh())  # no linear layer makes the logits
    detector = Detector(model).fit(inputs(120))
    names = detector.evidence_
    assert "mahalanobis" not in names
    assert "boundary" in names
    assert detector.predict(inputs(5, seed=2)).outlier_score.isfinite().all()
    with pytest.raises(GradgeoError, match=r"expected evidence to be what this model has, got 'neighbours'"):
        Detector(model, evidence=["csm", "neighbours"]).fit(inputs(120))


@pytest.mark.parametrize("x", [inputs(120), torch.randn(120, 6, generator=torch.Generator().manual_seed(0))])
def test_a_preset_and_more_leaves_out_what_the_preset_does(x: Tensor) -> None:
    torch.manual_seed(0)
    row = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model = row if x.ndim == 2 else network()
    alone, more = (Detector(model, evidence=e).fit(x) for e in ("fast", ["magnitude", *PRESETS["fast"], "neighbours"]))
    assert more.evidence_ == ("magnitude", *alone.evidence_, "neighbours")
    absent = "columns" if x.ndim > 2 else "shifts"
    with pytest.raises(GradgeoError, match=f"what this model has, got '{absent}'"):
        Detector(model, evidence=["confidence", absent]).fit(x)


def test_layers_of_another_model_are_refused() -> None:
    detector = Detector(network(), evidence="lite").fit(inputs(120))
    shallow = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    with pytest.raises(GradgeoError, match=r"expected the model to be one with outputs of 2 layers, as at fit, got 1"):
        detector.fitted_.extractor.measure(shallow, [inputs(3)], batch_size=3)


def test_two_classes() -> None:
    with pytest.warns(gradgeo.GradgeoWarning, match="with two classes"):
        detector = Detector(network(2)).fit(inputs(160))
    assert detector.predict(inputs(9, seed=2)).outlier_score.isfinite().all()


@pytest.mark.parametrize(
    ("doubt", "features", "unstable", "cause"),
    [
        (3.0, 1.0, 0.1, "undecided"),
        (3.0, 6.0, 0.1, "unlike"),
        (3.0, 4.0, 6.0, "unstable"),
        (0.1, 5.0, 1.0, "unstable"),  # surer than most trusted inputs, and far from them
    ],
)
def test_likely_causes(doubt: float, features: float, unstable: float, cause: str) -> None:
    assert cause in CAUSES
    surprise = {"confidence": doubt, "features": features, "stability": unstable, "geometry": 4.0}
    assert likely_cause(surprise) == cause
    assert likely_cause({"geometry": 4.0}) is None


def test_a_text_is_unlike_or_undecided() -> None:
    assert likely_cause({"confidence": 3.0, "features": 1.0, "geometry": 9.0}) == "undecided"
    assert likely_cause({"confidence": 3.0, "features": 6.0}) == "unlike"
    assert likely_cause({"confidence": 3.0, "features": 1.0, "input": 6.0, "stability": 2.0}) == "unlike"
    assert likely_cause({"confidence": 3.0, "features": 1.0, "layers": 4.0}) == "unlike"
    assert likely_cause({"confidence": 3.0, "features": 1.0, "layers": float("nan")}) is None


def test_explanations_name_evidence_and_cause() -> None:
    detector = Detector(network(), alpha=0.2).fit(inputs(200))
    odd, fusion = inputs(30, seed=5) * 4, detector.fitted_.fusion
    for why in detector.explain(odd):
        assert set(why.evidence) == set(PRESETS["full"]) - {
            "confidence",
            "columns",
            "layer_3",
            "layer_4",
            "layer_5",
            "layer_6",
        }
        assert set(why.questions) == {"confidence", "features", "input", "stability", "geometry", "layers"}
        assert (why.cause is None) == why.trusted
        assert why.cause in (*CAUSES, None)
        surprisal = [score.surprise for score in why.evidence.values()]
        assert surprisal == sorted(surprisal, reverse=True)
        assert all(0 < score.p_value <= 1 for score in why.evidence.values())
        weight = dict(zip(fusion.question_names, fusion.weights.tolist(), strict=True))
        beyond = {name: max(q - FLOOR.get(name, 0), 0) for name, q in why.questions.items()}
        assert why.outlier_score == pytest.approx(sum(weight[name] * q**1.5 for name, q in beyond.items()))
        assert why.as_dict()["cause"] == why.cause
        assert all(math.isfinite(q) for q in why.as_dict()["questions"].values())


def without_gradients(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model as a function of another runtime: arrays in, arrays out."""

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(model(torch.from_numpy(x.numpy())).detach().numpy())

    return run


def test_lite_judges_a_model_without_gradients_and_full_says_what_is_missing() -> None:
    model, x = network(), inputs(300)
    detector = Detector(without_gradients(model), evidence="lite").fit(x)
    assert detector.evidence_ == ("mirrored", "spectrum", "symmetry")
    p = detector.predict(torch.cat([inputs(50, seed=5), 30 * inputs(50, seed=6)])).p_value
    assert p[50:].mean() < 0.1 < p[:50].mean()
    [why] = detector.explain(30 * inputs(1, seed=6))
    assert why.csm.isnan().all()
    assert set(why.evidence) == set(detector.evidence_)
    assert list(detector.judge(30 * inputs(2, seed=6), explain=True).explanations) == [0, 1]
    with pytest.raises(ModelError, match=r"Can't call numpy\(\)"):
        Detector(without_gradients(model)).fit(x)
    with pytest.raises(ModelError, match='evidence="lite"'):
        Detector(lambda x: model(x).detach()).fit(x)


class Rounded(nn.Module):
    """Activations in steps, as those of quantised models: their derivative is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return (64 * x).round() / 64


@pytest.mark.filterwarnings("ignore::gradgeo.errors.UnusableInputWarning")
def test_lite_judges_a_model_whose_gradients_vanish_and_full_points_to_it() -> None:
    model, x = nn.Sequential(Rounded(), network()), inputs(300)
    p = Detector(model, evidence="lite").fit(x).predict(30 * inputs(50, seed=6)).p_value
    assert p.mean() < 0.1
    with pytest.raises(GradgeoError, match='evidence="lite"'):
        Detector(model).fit(x)


def attentive() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(
        nn.Flatten(1), nn.Unflatten(1, (12, 4)), nn.Linear(4, 4), layer, nn.Flatten(), nn.Linear(48, 4)
    )


@pytest.mark.parametrize("make", [partial(nets.pooled, 4), attentive])
def test_a_pass_without_a_graph_measures_the_same(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    x = nets.inputs(260, shape=(3, 4, 4) if make is attentive else (3, 32, 32))
    lean = Detector(model, evidence="lite").fit(x)
    for evidence in PRESETS["lite"]:
        monkeypatch.setitem(EVIDENCE, evidence, replace(EVIDENCE[evidence], gradients=True))
    whole = Detector(model, evidence="lite").fit(x)
    assert lean.evidence_ == whole.evidence_
    assert "layer_2" in lean.evidence_
    assert torch.allclose(lean.outlier_score(x), whole.outlier_score(x), rtol=1e-4)


def test_evidence_that_denies_its_gradients_is_told() -> None:
    EVIDENCE["mine"] = Evidence("mine", ("a",), lambda ctx: ctx.csm[:, :1, 1].double(), gradients=False)
    try:
        with pytest.raises(GradgeoError, match=r"Evidence\.gradients to be True"):
            Detector(network(), evidence=["mine"]).fit(inputs(200))
    finally:
        del EVIDENCE["mine"]
