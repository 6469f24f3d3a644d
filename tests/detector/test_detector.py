"""The detector's contract: what it accepts, promises, refuses and leaves alone."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

import gradgeo
from gradgeo import Detector, GradgeoError, GradgeoWarning
from gradgeo.detector.calibration import conformal
from gradgeo.detector.evidence import EVIDENCE, Evidence
from gradgeo.detector.words import InputKind
from gradgeo.errors import NotFittedError
from helpers.nets import Pairs, inputs, network


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(network()).fit(inputs(300))


@pytest.mark.simulation
def test_every_kind_of_data_gives_the_same_detector() -> None:
    model, x = network(), inputs(200)
    y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4  # so many are misclassified
    probe = inputs(20, seed=2)
    kinds = {
        "tensor": (x, y),
        "array": (x.numpy(), y.numpy()),
        "list of labels": (x, y.tolist()),
        "double array": (x.double().numpy(), y),
        "data set": (Pairs(x, y),),
        "tensor data set": (TensorDataset(x, y),),
        "loader": (DataLoader(Pairs(x, y), batch_size=17),),
        "shuffling loader": (DataLoader(Pairs(x, y), batch_size=64, shuffle=True),),
    }
    scores = {name: Detector(model).fit(*data).outlier_score(probe) for name, data in kinds.items()}
    for name, score in scores.items():
        # batches of other sizes may round differently in the last bit
        assert torch.allclose(score, scores["tensor"], atol=1e-4), name
    assert torch.equal(scores["array"], scores["tensor"])


def test_only_correct_samples_count_where_labels_are_known() -> None:
    model, x = network(), inputs(200)
    y = model(x).argmax(1)
    wrong = torch.arange(0, 200, 5)
    y[wrong] = (y[wrong] + 1) % 4
    detector = Detector(model).fit(x, y)
    assert detector.misclassified_ == 40
    assert detector.fit_size_ + detector.calibration_size_ == 160
    kept = np.setdiff1d(np.arange(200), wrong)
    nearest = {e.nearest.index for e in detector.explain(inputs(30, 5))}
    assert nearest <= set(kept.tolist())
    assert Detector(model).fit(x).misclassified_ == 0


def test_rows_answer_to_inputs_in_order(fitted: Detector) -> None:
    x = inputs(50, seed=3)
    expected = fitted.outlier_score(x)
    for loader in (
        DataLoader(x, batch_size=7, shuffle=True),
        DataLoader(x, batch_size=7, drop_last=True),
        DataLoader([x[:20], x[20:]], batch_size=None, shuffle=True),
    ):
        assert torch.allclose(fitted.outlier_score(loader), expected, atol=1e-4)


def test_arrays_of_any_layout(fitted: Detector) -> None:
    x = inputs(20, seed=3).numpy()
    expected = fitted.outlier_score(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (x.astype(">f4"), np.asfortranarray(x), frozen, x.astype(np.float64)):
        assert torch.equal(fitted.outlier_score(array), expected)
    masked = np.ma.array(x, mask=np.zeros_like(x, bool))
    masked.mask[4, 0, 0, 0] = True
    with pytest.warns(GradgeoWarning, match="1 of 20"):
        assert fitted.outlier_score(masked)[4].isnan()


def test_labels_in_another_order_are_noticed() -> None:
    model, x = network(), inputs(400)
    with pytest.warns(GradgeoWarning, match=r"count as misclassified: are the labels numbered as the model's"):
        Detector(model).fit(x, torch.where(torch.arange(400) < 250, (model(x).argmax(1) + 1) % 4, model(x).argmax(1)))


def test_options_changed_after_fit_wait_for_the_next_fit() -> None:
    detector = Detector(network()).fit(inputs(200))
    before = detector.outlier_score(inputs(5, seed=2))
    detector.classes = 2
    assert torch.equal(detector.outlier_score(inputs(5, seed=2)), before)
    assert not torch.equal(detector.fit(inputs(200)).outlier_score(inputs(5, seed=2)), before)


def test_a_model_that_draws_random_numbers_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # another test may have left a progress bar's thread

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + 0.05 * torch.randn_like(x))

    detector = Detector(Noisy()).fit(inputs(200))
    first = detector.outlier_score(inputs(20, seed=2))
    torch.rand(7)
    assert torch.equal(detector.outlier_score(inputs(20, seed=2)), first)


def test_predictions_agree_with_their_parts(fitted: Detector) -> None:
    x = inputs(50, seed=3)
    verdict = fitted.predict(x)
    z = network()(x).double()
    assert torch.equal(verdict.label, z.argmax(1))
    assert torch.allclose(verdict.probability, z.softmax(1).amax(1))
    assert torch.equal(verdict.outlier_score, fitted.outlier_score(x))
    assert torch.equal(verdict.p_value, fitted.p_value(x))
    assert torch.equal(verdict.trusted, verdict.p_value > fitted.alpha)
    assert verdict.outlier_score.dtype == verdict.p_value.dtype == torch.float64
    assert len(verdict) == 50
    assert repr(verdict) == f"Predictions(50 inputs, {int(verdict.trusted.sum())} trusted)"
    order = verdict.outlier_score.argsort()
    assert (verdict.p_value[order].diff() <= 0).all()  # the larger the score, the smaller the p-value


def test_scores_are_the_same_on_every_run_and_other_seeds_calibrate_on_others() -> None:
    x, probe = inputs(200), inputs(30, seed=2)
    first = Detector(network()).fit(x).outlier_score(probe)
    assert torch.equal(Detector(network()).fit(x).outlier_score(probe), first)
    assert not torch.equal(Detector(network(), seed=1).fit(x).outlier_score(probe), first)


@pytest.mark.simulation
def test_batch_size_hardly_matters(fitted: Detector) -> None:
    x = inputs(200, seed=4)
    together = fitted.outlier_score(x)
    singles = torch.cat([fitted.outlier_score(row[None]) for row in x])
    assert ((together - singles).abs() <= 1e-4 * together.clamp_min(1)).double().mean() >= 0.99


@pytest.mark.simulation
def test_false_alarm_rate_over_splits() -> None:
    """Exactly alpha in expectation, since alpha (n + 1) is an integer and there are no ties.

    With all that is fitted but the gradients around each input, which cost most and are calibrated as the rest.
    """
    model, evidence = network(), ["confidence", "neighbours", "stability", "csm", "residual", "boundary"]
    x = inputs(3000, seed=7)
    alarms = []
    rng = np.random.default_rng(0)
    for seed in range(20):
        order = torch.from_numpy(rng.permutation(3000))
        detector = Detector(model, evidence=evidence, alpha=0.1, seed=seed, classes=3).fit(x[order[:600]])
        assert (0.1 * (detector.calibration_size_ + 1)) % 1 == pytest.approx(0, abs=1e-9)
        alarms.append(1 - detector.predict(x[order[600:1200]]).trusted.double().mean())
    n = detector.calibration_size_
    # each split's rate varies as a beta-binomial of n calibration and 600 test inputs
    error = np.sqrt(0.1 * 0.9 * (1 / (n + 2) + 1 / 600) / 20)
    assert abs(np.mean(alarms) - 0.1) < 3.5 * error


def test_alpha_can_change_after_fit(fitted: Detector) -> None:
    x = inputs(100, seed=5)
    detector = Detector(network()).fit(inputs(300))
    p = detector.p_value(x)
    detector.alpha = 0.4
    assert torch.equal(detector.predict(x).trusted, p > 0.4)
    detector.alpha = 0.001
    with pytest.warns(GradgeoWarning, match=r"no input can be flagged at alpha = 0\.001 with \d+ calibration"):
        detector.predict(x)
    detector.alpha = 1.5
    with pytest.raises(GradgeoError, match=r"Detector\.predict: expected alpha to be a number between 0 and 1"):
        detector.predict(x)


@pytest.mark.parametrize("classes", [2, 3, torch.tensor([0, 2]), torch.tensor([3, 1, 2])])
def test_fewer_classes_always_include_the_predicted_one(classes: int | Tensor) -> None:
    model, x = network(), inputs(200)
    detector = Detector(model, classes=classes).fit(x)
    for why in detector.explain(inputs(40, seed=2)):
        assert why.label in why.classes
        assert len(set(why.classes)) == (classes if isinstance(classes, int) else len(classes))
        assert why.csm.shape == (len(why.classes), len(why.classes))
    if isinstance(classes, Tensor) and len(classes) == 3:
        x = inputs(300, seed=2)
        z = model(x)
        absent = (z.argmax(1) == 0).nonzero()[:, 0].tolist()
        assert absent, "class 0 is never predicted; choose other inputs"
        for i, why in zip(absent, detector.explain(x[absent]), strict=True):
            least = int(classes[z[i, classes].argmin()])
            assert set(why.classes) == {0, 1, 2, 3} - {least}


def test_two_classes_use_raw_logits_and_say_so_once() -> None:
    with pytest.warns(GradgeoWarning, match=r"with two classes the cross_entropy maps .*logit") as caught:
        detector = Detector(network(classes=2)).fit(inputs(200))
    assert len(caught) == 1
    assert detector.loss_ == "logit"
    scores = detector.outlier_score(inputs(20, seed=2))
    assert scores.isfinite().all()
    assert len(scores.unique()) > 1


def test_signals_and_tables() -> None:
    for shape in ((1, 40), (12,)):
        model = network(inputs=int(np.prod(shape)))
        assert Detector(model).fit(inputs(100, shape=shape)).predict(inputs(5, shape=shape)).label.shape == (5,)


def test_explanations_say_what_moved(fitted: Detector) -> None:
    x = inputs(3, seed=8)
    whys = fitted.explain(x)
    verdict = fitted.predict(x)
    for i, why in enumerate(whys):
        assert why.outlier_score == float(verdict.outlier_score[i])
        assert why.trusted == bool(verdict.trusted[i])
        assert set(why.statistics) > set(gradgeo.STATISTICS)
        p = [s.p_value for s in why.statistics.values()]
        assert p == sorted(p)
        assert all(0 < q <= 1 for q in p)
        stats = gradgeo.csm_statistics(why.csm[None].double(), torch.tensor([why.classes.index(why.label)]))[0]
        for name, value in zip(gradgeo.STATISTICS, stats.tolist(), strict=True):
            assert why.statistics[name].value == pytest.approx(value, abs=1e-6)
        assert why.as_dict()["label"] == why.label
        assert str(why).startswith(f"class {why.label} (probability ")
    known = fitted.explain(inputs(300)[[whys[0].nearest.index]])[0]
    assert known.nearest.distance == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("evidence", ["full", "fast"])  # with and without a CSM of its own
def test_one_judgement_holds_what_predict_and_explain_say(evidence: str) -> None:
    model = network()
    detector = Detector(model, evidence=evidence).fit(inputs(300))
    x = torch.cat([inputs(6, seed=8), 5 * inputs(6, seed=9)])
    x[1, 0] = torch.nan
    with pytest.warns(GradgeoWarning, match="^1 of 12 inputs") as caught:
        judged = detector.judge(x, explain=True)
    assert len(caught) == 1
    with pytest.warns(GradgeoWarning, match="^1 of 12 inputs"):
        alone, whys = detector.predict(x), detector.explain(x)
    assert torch.equal(judged.predictions.outlier_score.nan_to_num(-1), alone.outlier_score.nan_to_num(-1))
    good = [i for i in range(12) if i != 1]
    assert torch.allclose(judged.logits[good], model(x[good]), atol=1e-5)
    doubted = (~alone.trusted).nonzero()[:, 0].tolist()
    assert list(judged.explanations) == doubted
    assert judged.logits[1].isnan().all()
    assert judged.explanations[1].cause is None
    assert 1 < len(doubted) < 12
    for i in doubted:
        assert judged.explanations[i].evidence.keys() == whys[i].evidence.keys() == judged.evidence.keys()
        assert torch.allclose(judged.explanations[i].csm, whys[i].csm, atol=1e-5, equal_nan=True)
        assert judged.explanations[i].cause == whys[i].cause
        for name, score in whys[i].evidence.items():
            assert float(judged.evidence[name][i]) == pytest.approx(score.p_value, nan_ok=True)
    assert detector.judge(x[2:4]).explanations == {}
    assert detector.judge(x[:0]).logits.shape == (0, 4)
    with pytest.raises(GradgeoError, match=r"judge: expected x to be a tensor or array"):
        detector.judge(TensorDataset(x))


def test_rows_that_cannot_be_judged(fitted: Detector) -> None:
    x = inputs(10, seed=9)
    expected = fitted.outlier_score(x)
    x[2, 0, 0, 0], x[5] = torch.nan, torch.inf
    with pytest.warns(GradgeoWarning, match=r"^2 of 10 inputs have NaN or infinite") as caught:
        verdict = fitted.predict(x)
    assert len(caught) == 1
    bad = torch.tensor([2, 5])
    good = torch.tensor([0, 1, 3, 4, 6, 7, 8, 9])
    assert verdict.outlier_score[bad].isnan().all()
    assert verdict.p_value[bad].isnan().all()
    assert verdict.label[bad].tolist() == [-1, -1]
    assert not verdict.trusted[bad].any()
    assert torch.equal(verdict.outlier_score[good], expected[good])
    with pytest.warns(GradgeoWarning, match="^2 of 10"):
        assert fitted.explain(x)[2].nearest is None


class PartlyDead(nn.Module):
    """No gradient wherever the first input is above 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        alive = (x.flatten(1)[:, :1] <= 0.5).to(x.dtype)
        return self.net(x) * alive + (1 - alive) * torch.tensor([1.0, 0.0, 0.0, 0.0])


def test_dead_networks() -> None:
    x = inputs(400)
    with pytest.warns(GradgeoWarning, match=r"\d+ of 400 inputs have no gradient at all"):
        detector = Detector(PartlyDead()).fit(x)
    dead = x.flatten(1)[:, 0] > 0.5
    with pytest.warns(GradgeoWarning, match=r"have no gradient at all"):
        verdict = detector.predict(x)
    assert torch.equal(verdict.outlier_score.isnan(), dead)
    assert not verdict.trusted[dead].any()
    with (
        pytest.warns(GradgeoWarning, match="no gradient"),
        pytest.raises(GradgeoError, match=r"at least 51 trusted inputs .* got 0 of 400 inputs: 400 have no gradient"),
    ):
        Detector(nn.Sequential(network(), Zero())).fit(x)


def test_dead_inputs_may_leave_too_few_to_calibrate() -> None:
    x = inputs(300)
    x[:, 0, 0, 0] = torch.where(torch.arange(300) % 5 == 0, 0.1, 0.9)  # 60 of 300 have gradients
    with (
        pytest.warns(GradgeoWarning, match="no gradient"),
        pytest.raises(GradgeoError, match=r"expected more inputs with gradients, got \d+ to learn from"),
    ):
        Detector(PartlyDead(), calibration=0.9).fit(x)


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def test_empty_batch(fitted: Detector) -> None:
    verdict = fitted.predict(torch.rand(0, 3, 2, 2))
    assert len(verdict) == 0
    assert verdict.trusted.dtype == torch.bool
    assert fitted.explain(torch.rand(0, 3, 2, 2)) == []


def test_probabilities_instead_of_logits_are_noticed() -> None:
    with pytest.warns(GradgeoWarning, match="the model returns probabilities"):
        Detector(nn.Sequential(network(), nn.Softmax(1))).fit(inputs(200))


def test_nan_fit_rows_are_left_out_with_a_count() -> None:
    x = inputs(200)
    x[:3] = torch.nan
    with pytest.warns(GradgeoWarning, match=r"^3 of 200 inputs have NaN or infinite .* left out"):
        detector = Detector(network()).fit(x)
    assert detector.unusable_ == 3


def test_a_failed_fit_leaves_the_earlier_one() -> None:
    detector = Detector(network()).fit(inputs(200))
    before = detector.outlier_score(inputs(5, seed=2))
    with pytest.raises(GradgeoError, match="at least 51 trusted inputs"):
        detector.fit(inputs(10))
    with pytest.raises(GradgeoError, match="labels to be within"):
        detector.fit(inputs(200), torch.full((200,), 9))
    assert torch.equal(detector.outlier_score(inputs(5, seed=2)), before)


def test_evidence_of_ones_own() -> None:
    EVIDENCE["margin"] = Evidence(
        "margin", ("margin",), lambda ctx: ctx.forward.logits.topk(2).values.diff(dim=1).abs()
    )
    try:
        both = Detector(network(), evidence=["csm", "margin"]).fit(inputs(200))
        assert set(both.explain(inputs(1, seed=2))[0].statistics) == {*gradgeo.STATISTICS, "margin"}
        alone = Detector(network(), evidence=["margin"]).fit(inputs(200))
        assert alone.predict(inputs(5, seed=2)).outlier_score.isfinite().all()
    finally:
        del EVIDENCE["margin"]


def test_evidence_of_ones_own_has_words() -> None:
    x = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    told: list[InputKind] = []

    def words(row: Sequence[float], low: Sequence[float], high: Sequence[float], of: InputKind) -> tuple[str, ...]:
        told.append(of)
        return ("too loud",) if row[0] > high[0] else ("too quiet",) if row[0] < low[0] else ()

    EVIDENCE["loud"] = Evidence(
        "loud", ("loud",), lambda ctx: ctx.forward.x.flatten(1).double().amax(1, True), words=words
    )
    try:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
        detector = Detector(model, evidence=["spectrum", "loud"]).fit(x)
        loud, silent = detector.explain(torch.stack([x[0] + 5, x[1]]))
    finally:
        del EVIDENCE["loud"]
    assert loud.seen[-1] == "too loud"
    assert len(loud.seen) > 1  # of the spectrum too
    assert not silent.seen
    assert set(told) == {InputKind(3)}


class Augmented(Pairs):
    def __getitem__(self, i: int) -> Tensor:
        return torch.randn(3, 2, 2) * 3


class Once(IterableDataset):
    def __init__(self, x: Tensor) -> None:
        self.rest = iter(x)

    def __iter__(self) -> object:
        return self.rest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: Detector(network()).predict(inputs(3)), r"Detector\.predict: the detector is not fitted.*fit\(data\)"),
        (lambda d: Detector(network()).save("x"), r"Detector\.save: the detector is not fitted"),
        (lambda d: d.predict(inputs(3)[0]), r"Detector\.predict: expected x to be of shape \(N, 3, 2, 2\) as in fit"),
        (lambda d: d.predict(inputs(3, shape=(3, 2, 3))), r"of shape \(N, 3, 2, 2\) as in fit, got a tensor of shape"),
        (lambda d: d.predict((inputs(3) * 255).byte()), r"expected x to be a floating-point tensor, .*uint8.*x / 255"),
        (lambda d: d.predict([1, 2]), r"expected data to be a tensor, an array, a table, a Dataset or a DataLoader"),
        (lambda d: d.fit(inputs(50)), r"Detector\.fit: expected at least 51 trusted inputs \(19 to calibrate alpha"),
        (lambda d: d.fit(torch.rand(0, 3, 2, 2)), r"expected data to be at least one input"),
        (lambda d: d.fit(inputs(99), torch.full((99,), 4)), r"expected labels to be within 0\.\.3, got '4\.\.4'"),
        (lambda d: d.fit(inputs(99), torch.full((99,), -1)), r"expected labels to be within 0\.\.3, got '-1\.\.-1'"),
        (lambda d: d.fit(inputs(99), torch.zeros(98).long()), r"labels to be of shape \(99,\), one per input"),
        (lambda d: d.fit(inputs(99), torch.rand(99)), r"expected labels to be integers of shape \(N,\)"),
        (lambda d: d.fit(Pairs(inputs(9), torch.zeros(9)), torch.zeros(9)), r"labels to be None for a Dataset"),
        (lambda d: d.fit(Augmented(inputs(99), torch.zeros(99))), r"without random augmentation"),
        (lambda d: d.fit(DataLoader(inputs(99), sampler=SubsetRandomSampler(range(50)))), r"without a sampler of its own.*SubsetRandom.*Subset"),
        (lambda d: d.fit(inputs(99), [None] * 99), r"expected labels to be integers of shape \(N,\), got a list of length 99"),
        (lambda d: d.predict(np.full((3, 3, 2, 2), "a")), r"expected x to be an array of numbers"),
        (lambda d: Detector(network(), seed=-1), r"expected seed to be an integer, 0 or more"),
        (lambda d: Detector(network(), alpha="a"), r"expected alpha to be a number between 0 and 1"),
        (lambda d: d.save("x", notes=[1]), r"Detector\.save: expected notes to be a dict"),
        (lambda d: d.fit(DataLoader(Once(inputs(99)), batch_size=9)), r"expected data to be the same at both readings"),
        (lambda d: Detector(network(), alpha=0), r"Detector: expected alpha to be a number between 0 and 1, got 0"),
        (lambda d: Detector(network(), calibration=1.0), r"expected calibration to be a number between 0 and 1"),
        (lambda d: Detector(network(), evidence="best"), r"expected evidence to be one of 'full', 'fast', 'lite', 'paper', got 'best'"),
        (lambda d: Detector(network(), evidence=["cms"]), r"expected evidence to be one of 'confidence', .*'csm', .*, got 'cms'"),
        (lambda d: Detector(network(), evidence=[]), r"expected evidence to be at least one name"),
        (lambda d: Detector(network(), temperature="hot"), r"expected temperature to be one of 'auto', got 'hot'"),
        (lambda d: Detector(network(), temperature=-1.0), r"expected temperature to be a positive number"),
        (lambda d: Detector(network(), batch_size=0), r"expected batch_size to be a positive integer"),
        (lambda d: Detector(network(), classes=torch.zeros(2, 2).long()), r"integer tensor of shape \(K,\)"),
        (lambda d: Detector("model"), r"Detector: expected model to be a torch.nn.Module or a function"),
        (lambda d: Detector(network(classes=1)).fit(inputs(99)), r"Detector\.fit: expected the model to return at least 2"),
    ],
)  # fmt: skip
def test_bad_use_is_named(call: object, message: str, fitted: Detector) -> None:
    with pytest.raises(GradgeoError, match=message):
        call(fitted)


def test_not_fitted_is_its_own_error() -> None:
    with pytest.raises(NotFittedError, match="not fitted"):
        Detector(network()).p_value(inputs(2))


def test_the_message_says_how_many_inputs_are_needed() -> None:
    for alpha in (0.05, 0.01):
        enough = conformal.min_calibration_size(alpha) + 32
        with pytest.raises(GradgeoError, match=f"expected at least {enough} trusted inputs"):
            Detector(network(), alpha=alpha).fit(inputs(enough - 1))
        assert Detector(network(), alpha=alpha).fit(inputs(enough)).calibration_size_ == conformal.min_calibration_size(
            alpha
        )
