import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.attacks.decision_path import DecisionPath, adversary, decision_path
from gradgeo.errors import ArgumentError, GradgeoWarning, ModelError, NotFittedError
from helpers.commands import NET, run


def linear(*rows: list[float], bias: list[float] | None = None) -> nn.Module:
    """Flatten and a linear layer with these weights, one row per class."""
    layer = nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        layer.bias.copy_(torch.zeros(len(rows)) if bias is None else torch.tensor(bias))
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Three classes of two entries: class 0 wins while x_0 < 0.3, then class 1 until 0.8, then class 2."""
    return linear([0.0, 1.0], [1.0, 1.0], [3.0, 1.0], bias=[0.3, 0.0, -1.6])


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 5)).eval()


@pytest.fixture(scope="module")
def detector(net: nn.Module) -> gradgeo.Detector:
    x = torch.rand(120, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return gradgeo.Detector(net, alpha=0.1).fit(x)


def ends(shape: tuple[int, ...], seed: int = 2) -> tuple[Tensor, Tensor]:
    start, end = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))
    return start, 3 * end


# Positions, labels and switches


@pytest.mark.parametrize("points", [2, 3, 11, 41, 97])
def test_the_switches_of_a_linear_model_are_where_its_classes_tie(model: nn.Module, points: int) -> None:
    found = decision_path(model, torch.tensor([0.0, 0.4]), torch.tensor([1.0, 0.4]), points=points)
    assert found.position[0] == 0
    assert found.position[-1] == 1
    assert bool((found.position.diff() > 0).all())
    if points == 2:  # class 1 comes and goes between the points; 0 and 2 tie at 1.9 / 3
        assert found.switches.tolist() == pytest.approx([1.9 / 3], abs=1e-6)
        return
    assert found.switches.tolist() == pytest.approx([0.3, 0.8], abs=1e-6)
    away = ((found.position - 0.3).abs() > 1e-6) & ((found.position - 0.8).abs() > 1e-6)  # no tie
    expected = (found.position > 0.3).long() + (found.position > 0.8).long()
    assert torch.equal(found.label[away], expected[away])


def test_probabilities_are_the_softmax_at_each_point(net: nn.Module) -> None:
    start, end = ends((1, 6, 6))
    found = decision_path(net, start, end, points=7)
    x = start + found.position.view(-1, 1, 1, 1).float() * (end - start)
    torch.testing.assert_close(found.probabilities.float(), net(x).softmax(1).detach())
    torch.testing.assert_close(found.label, net(x).argmax(1))
    assert found.probabilities.dtype == torch.float64


def test_the_ends_are_judged_exactly(net: nn.Module) -> None:
    start, end = ends((1, 6, 6))
    seen: list[Tensor] = []

    def watch(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return net(x)

    decision_path(watch, start, end, points=3)
    whole = next(x for x in seen if len(x) == 3)
    assert torch.equal(whole[0], start.view_as(whole[0]))
    assert torch.equal(whole[2], end.view_as(whole[2]))


def test_no_switch_where_the_label_stays(model: nn.Module) -> None:
    found = decision_path(model, torch.tensor([0.0, 0.0]), torch.tensor([0.2, 5.0]), points=5)
    assert found.switches.tolist() == []
    assert found.label.tolist() == [0] * 5


def test_a_point_without_finite_logits_has_no_label() -> None:
    def broken(x: Tensor) -> Tensor:
        logits = torch.stack([x[:, 0], 1 - x[:, 0], x[:, 1] - 2], dim=1)
        return torch.where((x[:, :1] - 0.5).abs() < 0.1, torch.nan, logits)

    with pytest.warns(GradgeoWarning, match="NaN or infinite"):
        found = decision_path(broken, torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]), points=5)
    assert found.label.tolist() == [1, 1, -1, 0, 0]
    assert found.switches.tolist() == [0.375, 0.625]
    for values in (found.probabilities[:, 0], found.s1_mean, found.s2_mean, found.zeta_mean, found.zeta_min):
        assert values.isnan().tolist() == [False, False, True, False, False]
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["s1_mean"][2] is None


# The geometry is that of the public functions


def line(start: Tensor, end: Tensor, points: int) -> Tensor:
    weight = torch.linspace(0, 1, points, dtype=torch.float64).view(-1, *[1] * start.ndim)
    return torch.lerp(start.double(), end.double(), weight).float()


@pytest.mark.parametrize("options", [{}, {"loss": "mse"}, {"temperature": 5.0}, {"loss": "logit", "rescale": True}])
def test_means_are_those_of_csm_and_zeta(net: nn.Module, options: dict[str, object]) -> None:
    start, end = ends((1, 6, 6))
    found = decision_path(net, start, end, points=9, radius=0.05, directions=4, **options)
    x = line(start, end, 9)
    statistics = gradgeo.csm_statistics(gradgeo.csm(net, x, **options), found.label)
    torch.testing.assert_close(found.s1_mean.float(), statistics[:, gradgeo.STATISTICS.index("s1_mean")])
    torch.testing.assert_close(found.s2_mean.float(), statistics[:, gradgeo.STATISTICS.index("s2_mean")])
    around = gradgeo.zeta(net, x, labels=found.label, radius=0.05, directions=4, **options)
    torch.testing.assert_close(found.zeta_mean.float(), around.mean(1))
    torch.testing.assert_close(found.zeta_min.float(), around.amin(1))


def test_the_maps_of_the_most_likely_classes(net: nn.Module) -> None:
    start, end = ends((1, 6, 6))
    found = decision_path(net, start, end, points=5, classes=3)
    top = torch.zeros(5, dtype=torch.long)
    statistics = gradgeo.csm_statistics(gradgeo.csm(net, line(start, end, 5), classes=3), top)
    torch.testing.assert_close(found.s2_mean.float(), statistics[:, gradgeo.STATISTICS.index("s2_mean")])


def test_two_classes_are_compared_by_raw_logits() -> None:
    two = linear([1.0, 0.0], [0.6, 0.8])  # unsigned the maps' cosine is 0.6; signs (1, 0) and (1, 1) have 1 / sqrt(2)
    found = decision_path(two, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), points=5)
    assert found.s2_mean.tolist() == pytest.approx([0.5**0.5] * 5)
    assert found.s1_mean.tolist() == [0] * 5


def test_a_generator_draws_the_directions(net: nn.Module) -> None:
    start, end = ends((1, 6, 6))
    first, again, other = (
        decision_path(net, start, end, points=3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.zeta_mean, again.zeta_mean)
    assert not torch.equal(first.zeta_mean, other.zeta_mean)


# The detector


def test_the_detectors_scores_and_options(net: nn.Module, detector: gradgeo.Detector) -> None:
    start, end = ends((1, 6, 6))
    found = decision_path(net, start, end, points=9, detector=detector)
    verdict = detector.predict(line(start, end, 9))
    torch.testing.assert_close(found.outlier_score, verdict.outlier_score)
    torch.testing.assert_close(found.p_value, verdict.p_value)
    assert torch.equal(found.trusted, verdict.trusted)
    own = decision_path(net, start, end, points=9, temperature=detector.temperature_)
    assert torch.equal(found.s1_mean, own.s1_mean)
    paper = decision_path(net, start, end, points=9, detector=detector, temperature=1.0)
    assert torch.equal(paper.s1_mean, decision_path(net, start, end, points=9).s1_mean)
    assert own.outlier_score is own.p_value is own.trusted is None


def test_a_detector_of_another_model_is_refused(model: nn.Module, detector: gradgeo.Detector) -> None:
    with pytest.raises(ArgumentError, match="decision_path: expected detector to be fitted with this model"):
        decision_path(model, *ends((1, 6, 6)), detector=detector)


def test_a_detector_before_fit_is_refused(net: nn.Module) -> None:
    with pytest.raises(NotFittedError, match="decision_path: the detector is not fitted"):
        decision_path(net, *ends((1, 6, 6)), detector=gradgeo.Detector(net))


# Shapes and other arguments


@pytest.mark.parametrize("with_detector", [False, True])
def test_one_input_with_or_without_batch_axis(net: nn.Module, detector: gradgeo.Detector, with_detector: bool) -> None:
    start, end = ends((1, 6, 6))
    judge = detector if with_detector else None
    bare, batched = (
        decision_path(net, a, b, points=3, detector=judge) for a, b in ((start, end), (start[None], end[None]))
    )
    assert torch.equal(bare.probabilities, batched.probabilities)
    assert torch.equal(bare.s1_mean, batched.s1_mean)


def test_a_convolution_that_takes_single_images_gets_a_batch() -> None:
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    start, end = ends((1, 6, 6))
    assert decision_path(grey, start, end, points=3).probabilities.shape == (3, 3)


BAD = [
    ((torch.zeros(2, 1, 6, 6), torch.ones(1, 6, 6)), {}, "expected end to be one input"),
    ((torch.zeros(1, 6, 6), torch.ones(1, 5, 5)), {}, r"expected end to be one input, .* shape \(6, 6\)"),
    ((torch.zeros(1, 6, 6, dtype=torch.int64), torch.ones(1, 6, 6)), {}, "expected start to be one input"),
    ((torch.zeros(1, 6, 6), np.ones((1, 6, 6))), {}, "expected end to be one input, .*got an array"),
    ((torch.zeros(1, 6, 6), torch.full((1, 6, 6), torch.nan)), {}, "expected end to be finite"),
    ((torch.full((1, 6, 6), torch.inf), torch.ones(1, 6, 6)), {}, "expected start to be finite"),
    ((torch.ones(1, 6, 6), torch.ones(1, 6, 6)), {}, "expected end to be another input than start"),
    ((torch.zeros(1, 6, 6), torch.ones(1, 6, 6)), {"points": 1}, "expected points to be an integer of at least 2, got 1"),
    ((torch.zeros(1, 6, 6), torch.ones(1, 6, 6)), {"points": 2.5}, "expected points to be an integer"),
    ((torch.zeros(1, 6, 6), torch.ones(1, 6, 6)), {"classes": torch.tensor([0, 1])}, "expected classes to be an integer or None"),
    ((torch.zeros(1, 6, 6), torch.ones(1, 6, 6)), {"classes": 9}, "expected classes to be between 2 and 5"),
    ((torch.zeros(1, 6, 6), torch.ones(1, 6, 6)), {"radius": 0.0}, "expected radius to be a positive number"),
    ((torch.zeros(1, 6, 6), torch.ones(1, 6, 6)), {"loss": "hinge"}, "expected loss to be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("pair", "options", "message"), BAD)
def test_bad_arguments(net: nn.Module, pair: tuple[Tensor, Tensor], options: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"decision_path: {message}"):
        decision_path(net, *pair, **options)


def test_an_input_the_model_cannot_take(net: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"decision_path: the model failed on inputs of shape \(N, 1, 5, 5\)"):
        decision_path(net, torch.zeros(1, 5, 5), torch.ones(1, 5, 5), points=3)


# As data


def test_as_dict_and_files(net: nn.Module, detector: gradgeo.Detector, tmp_path: Path) -> None:
    found = decision_path(net, *ends((1, 6, 6)), points=5, detector=detector)
    found.write(tmp_path / "path.json")
    told = json.loads((tmp_path / "path.json").read_text())
    assert told == found.as_dict()
    assert told["position"] == [0, 0.25, 0.5, 0.75, 1]
    assert np.array(told["probabilities"]).shape == (5, 5)
    found.write(tmp_path / "path.csv")
    rows = [*csv.DictReader((tmp_path / "path.csv").read_text().splitlines())]
    assert len(rows) == 5
    assert [float(row["s2_mean"]) for row in rows] == told["s2_mean"]
    assert [float(row["probability_3"]) for row in rows] == [p[3] for p in told["probabilities"]]
    assert [row["trusted"] for row in rows] == [str(t) for t in told["trusted"]]
    bare = decision_path(net, *ends((1, 6, 6)), points=2)
    assert bare.as_dict()["p_value"] is None
    bare.write(tmp_path / "path.csv")
    assert "p_value" not in (tmp_path / "path.csv").read_text()


def test_another_ending_is_refused(net: nn.Module, tmp_path: Path) -> None:
    found = decision_path(net, *ends((1, 6, 6)), points=2)
    with pytest.raises(ArgumentError, match=r"DecisionPath.write: expected file to be one ending in .json or .csv"):
        found.write(tmp_path / "path.txt")
    assert not [*tmp_path.iterdir()]


# Adversaries


def test_the_adversary_is_in_the_budget_and_in_another_class(model: nn.Module) -> None:
    x = torch.tensor([[0.2, 0.5]])
    end = adversary(model, x, 0, epsilon=0.2)
    assert end.shape == x.shape
    assert float((end - x).abs().max()) <= 0.2
    assert model(end).argmax(1).item() == 1
    assert torch.equal(end[0], adversary(model, x[0], epsilon=0.2))
    far = adversary(model, x[0], 0, epsilon=0.9, target=2)
    assert model(far[None]).argmax(1).item() == 2


def test_why_there_is_no_adversary(model: nn.Module) -> None:
    x = torch.tensor([0.2, 0.5])
    with pytest.raises(
        ArgumentError,
        match=r"adversary: the attack did not succeed: 100 steps of PGD with epsilon 0.01 did not move an input of class 0 out of its class\. Try a larger epsilon",
    ):
        adversary(model, x, 0, epsilon=0.01)
    with pytest.raises(ArgumentError, match="did not move an input of class 0 to class 2"):
        adversary(model, x, 0, epsilon=0.2, target=2)
    with pytest.raises(ArgumentError, match=r"adversary: expected x to be classified as its label, 1, got 'class 0'"):
        adversary(model, x, 1, epsilon=0.2)
    with pytest.raises(ArgumentError, match="adversary: expected targets to be classes other than the labels"):
        adversary(model, x, 0, epsilon=0.2, target=0)
    with pytest.raises(ArgumentError, match="adversary: expected x to be within bounds"):
        adversary(model, x - 3, epsilon=0.2)
    with pytest.raises(ArgumentError, match="adversary: expected x to be one input"):
        adversary(model, [0.2, 0.5], epsilon=0.2)


# The command


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("room")
    (room / "net.py").write_text(NET)
    return room


@pytest.mark.journey
def test_the_command_writes_pictures_and_data(room: Path) -> None:
    base = ("path", "-m", f"{room}/net.py:net", "-d", "digits/test", "-i", 7, "--epsilon", 0.2, "--steps", 10)
    outs = [room / name for name in ("p.png", "p.svg", "p.json", "p.csv")]
    code, text, err = run(*base, *(part for out in outs for part in ("-o", out)))
    assert (code, err) == (0, "")
    assert outs[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in outs[1].read_text()
    told = json.loads(outs[2].read_text())
    assert told["label"][0] == 9
    assert told["label"][-1] != 9
    assert f"{told['switches'][0]:.3f}" in text
    assert len(outs[3].read_text().splitlines()) == 42
    assert told["outlier_score"] is None


@pytest.mark.journey
def test_the_command_with_a_detector(room: Path) -> None:
    model = f"{room}/net.py:net"
    assert run("fit", "-m", model, "-d", "digits/fit", "-o", room / "d.gradgeo", "--limit", 200)[0] == 0
    base = ("path", "-m", model, "-d", "digits/test", "-i", 7, "--epsilon", 0.2, "--steps", 10, "--points", 5)
    code, _, err = run(*base, "--detector", room / "d.gradgeo", "-o", room / "d.json", "--norm", "l2", "--epsilon", 3)
    assert (code, err) == (0, "")
    told = json.loads((room / "d.json").read_text())
    assert len(told["outlier_score"]) == len(told["trusted"]) == 5
    code, _, _ = run(*base, "--target", 3, "-o", room / "t.json")
    assert (code, json.loads((room / "t.json").read_text())["label"][-1]) == (0, 3)


WRONG = [
    (("--epsilon", 0.001), "the attack did not succeed: 100 steps of PGD with epsilon 0.001"),
    (("--epsilon", -1), "expected epsilon to be a positive number, got -1.0"),
    (("-i", 397), "expected index to be within 0..396, got 397"),
    (("-o", "path.gif"), "expected out to be a file ending in .png, .svg, .pdf, .json, .csv, got 'path.gif'"),
    (("--bounds", "0,0.5"), "expected x to be within bounds=(0.0, 0.5)"),
    (("-o", "nowhere/path.png"), "cannot write"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_goes_wrong_is_one_line(room: Path, arguments: tuple[object, ...], message: str) -> None:
    out = room / "none.json"
    base = ("path", "-m", f"{room}/net.py:net", "-d", "digits/test", "-i", 7, "--epsilon", 0.2, "-o", out)
    code, text, err = run(*base, *arguments)
    assert (code, text) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out.exists()
    assert not [*room.glob(".none*")]


def test_a_misclassified_input_is_refused(room: Path) -> None:
    from gradgeo.data import digits
    from gradgeo.data.models import load_model

    x, y = digits.split()["test"]
    with torch.no_grad():
        wrong = int((load_model(f"{room}/net.py:net")(x).argmax(1) != y).nonzero()[0])
    base = ("path", "-m", f"{room}/net.py:net", "-d", "digits/test", "--epsilon", 0.2, "-o", room / "w.json")
    code, _, err = run(*base, "-i", wrong)
    assert code == 1
    assert f"expected x to be classified as its label, {int(y[wrong])}" in err


def test_a_model_or_a_detector_is_needed(room: Path) -> None:
    code, _, err = run("path", "-d", "digits/test", "-i", 7, "--epsilon", 0.2, "-o", room / "n.json")
    assert code == 2
    assert "pass --model or --detector" in err


def test_the_path_is_frozen(model: nn.Module) -> None:
    found = decision_path(model, torch.tensor([0.0, 0.4]), torch.tensor([1.0, 0.4]), points=2)
    assert isinstance(found, DecisionPath)
    with pytest.raises(AttributeError, match="cannot assign"):
        found.position = torch.zeros(1)  # type: ignore[misc]
