"""P-values among calibration inputs of the same class or group, against ten lines that count."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from gradgeo import Detector, GradgeoWarning
from gradgeo.detector.calibration import conformal
from gradgeo.detector.calibration.mondrian import CalibrationGroups, Kinds
from gradgeo.detector.results import ConditionalPredictions
from gradgeo.errors import ArgumentError, DetectorFileError
from helpers.nets import inputs, network

X = inputs(300, shape=(12,))
SITES = [("A", "B", "B", "B")[i % 4] if i % 50 else "C" for i in range(300)]


@pytest.fixture(scope="module")
def fitted() -> Detector:
    with pytest.warns(GradgeoWarning, match=r"1 of 3 groups have fewer than the 9 calibration inputs .*: C \(\d\)\."):
        return Detector(network(), evidence=["confidence", "csm"], alpha=0.1).fit(X, groups=SITES)


def counted(known: list, kinds: list, score: float, kind: object) -> tuple[float, int]:
    """The reference: rank among one's own kind, or among all where these are fewer than nine."""
    own = [s for s, k in zip(known, kinds, strict=True) if k == kind]
    if len(own) < 9:
        own = known
    return (1 + sum(s >= score for s in own)) / (len(own) + 1), len(own)


@pytest.mark.parametrize("decimals", [1, 8])  # with ties, and without
def test_p_values_are_those_of_crepes(decimals: int) -> None:
    crepes = pytest.importorskip("crepes.base", reason="crepes is not installed")
    rng = np.random.default_rng(decimals)
    known, new = rng.normal(size=400).round(decimals), rng.normal(1, 2, 100).round(decimals)
    kinds = Kinds(rng.integers(5, size=400), rng.integers(5, size=100), ("",) * 100)
    p, compared = kinds.p_values(known, np.sort(known), new, 9)
    wanted = crepes.p_values_batch(known, new, kinds.calibration, kinds.asked, smoothing=False)
    np.testing.assert_allclose(p, wanted, rtol=1e-12)
    assert compared.sum() < 100 * 100
    pooled = conformal.p_values(np.sort(known), new)
    np.testing.assert_allclose(pooled, crepes.p_values_batch(known, new, smoothing=False), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*are compared with all")
@pytest.mark.parametrize("by", ["class", "group", "both"])
def test_p_values_are_ranks_among_ones_own_kind(fitted: Detector, by: str) -> None:
    x, sites = torch.cat([X[:60], 2 * X[60:100]]), [*SITES[:98], "D", "C"]
    plain = fitted.predict(x)
    rows = fitted.fitted_.calibration.rows
    known = fitted.outlier_score(X[rows]).tolist()
    labels = fitted.predict(X[rows]).label.tolist()
    own = {
        "class": labels,
        "group": [SITES[i] for i in rows],
        "both": [(SITES[i], c) for i, c in zip(rows, labels, strict=True)],
    }[by]
    asked = {"class": plain.label.tolist(), "group": sites, "both": [*zip(sites, plain.label.tolist(), strict=True)]}[
        by
    ]
    given = {} if by == "group" else {"conditional": "class"}
    found = fitted.predict(x, **given, **({} if by == "class" else {"groups": sites}))
    assert isinstance(found, ConditionalPredictions)
    # the scores of this pass round otherwise than those of the fit, so none may be a calibration input's own
    far = [i for i, s in enumerate(plain.outlier_score.tolist()) if min(abs(s - k) for k in known) > 1e-6]
    assert len(far) > 40
    for i in far:
        p, size = counted(known, own, float(plain.outlier_score[i]), asked[i])
        assert (float(found.p_value[i]), int(found.compared[i])) == (p, size)
    assert torch.equal(found.outlier_score, plain.outlier_score)
    assert torch.equal(found.trusted, found.p_value > 0.1)
    assert len(found[:3]) == 3
    assert torch.equal(found[far].compared, found.compared[far])


def test_what_falls_back_is_said(fitted: Detector) -> None:
    with pytest.warns(
        GradgeoWarning, match=r"2 of 4 inputs are compared with all 1\d9 .*: D \(0\), C \(\d\)\. "
    ) as told:
        found = fitted.predict(X[:4], groups=["A", "D", "C", "B"])
    assert len(told) == 1
    n = fitted.calibration_size_
    assert [int(size) == n for size in found.compared] == [False, True, True, False]
    assert torch.equal(found.p_value[1:3], fitted.p_value(X[1:3]))


def test_an_input_without_verdict_has_none_and_no_warning(fitted: Detector) -> None:
    x = X[:3].clone()
    x[1] = torch.nan
    with pytest.warns(GradgeoWarning, match="1 of 3 inputs") as told:
        found = fitted.predict(x, conditional="class", groups=["A", "C", "A"])
    assert len(told) == 1
    assert torch.isnan(found.p_value).tolist() == [False, True, False]
    assert not found.trusted[1]


@pytest.mark.filterwarnings("ignore:.*are compared with all")
def test_groups_are_kept_in_the_file(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "d.gradgeo")
    again = Detector.load(tmp_path / "d.gradgeo", network())
    assert again.groups_ == fitted.groups_ == ("C", "B", "A")
    assert again.digest() == fitted.digest()
    sites = [site if site != "C" else "A" for site in SITES]
    for given in ({"conditional": "class"}, {"groups": sites}):
        assert torch.equal(again.predict(X, **given).p_value, fitted.predict(X, **given).p_value)
    rates = again.false_alarm_rates("group")
    assert sum(rate.calibration_size for rate in rates.values()) == fitted.calibration_size_
    assert rates["C"].ranks == 0
    assert rates["B"].at_most < rates["A"].at_most
    again.save(tmp_path / "e.gradgeo")
    assert (tmp_path / "e.gradgeo").read_bytes() == (tmp_path / "d.gradgeo").read_bytes()


def test_a_confidence_holds_within_each_kind(fitted: Detector) -> None:
    fitted.confidence = 0.8
    try:
        found = fitted.predict(X, groups=["A"] * 300)
        size = fitted.false_alarm_rates("group")["A"]
        assert size.ranks == round(size.expected * (size.calibration_size + 1)) < 0.1 * (size.calibration_size + 1) - 1
        assert torch.equal(found.trusted, found.p_value > size.ranks / (size.calibration_size + 1))
    finally:
        fitted.confidence = None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"conditional": "site"}, r"expected conditional to be one of 'class', got 'site'"),
        ({"groups": ["A"]}, "expected groups to be one number or text for each of 4 inputs"),
        ({"groups": [0.5] * 4}, "expected groups to be one number or text for each of 4 inputs"),
    ],
)
def test_what_cannot_be_conditional(fitted: Detector, given: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        fitted.predict(X[:4], **given)


def test_without_groups_there_are_none() -> None:
    detector = Detector(network(), evidence=["confidence"], alpha=0.1).fit(X)
    assert detector.groups_ == ()
    with pytest.raises(ArgumentError, match=r"fitted without groups: fit\(data, groups=\.\.\.\)"):
        detector.predict(X[:4], groups=["A"] * 4)
    with pytest.raises(ArgumentError, match=r"fitted without groups"):
        detector.false_alarm_rates("group")


def test_many_small_groups_look_like_patients() -> None:
    with pytest.warns(GradgeoWarning, match=r"60 of 60 groups have fewer .* say together="):
        Detector(network(), evidence=["confidence"], alpha=0.1).fit(X, groups=[i // 5 for i in range(300)])


def forged(names: object, rows: np.ndarray, fitted: Detector, path: Path) -> Path:
    from detector.test_serialization import forge, parts

    fitted.save(path)
    document, arrays = parts(path)
    document["fitted"]["groups"] = names
    forge(path, document, arrays | {"reference_group": rows})
    return path


@pytest.mark.parametrize(
    ("names", "change", "message"),
    [
        (["C", "B"], {}, "reference_group is out of range"),
        (["C", "B", "B"], {}, "groups is not valid"),
        ([], {}, "groups is not valid"),
        ("CBA", {}, "groups is not valid"),
        (["C", "B", "A"], {"dtype": np.int32}, "reference_group has the wrong type"),
        (["C", "B", "A"], {"rows": slice(1, None)}, "reference_group has the wrong shape"),
    ],
)
def test_forged_groups_are_refused(fitted: Detector, tmp_path: Path, names: object, change: dict, message: str) -> None:
    rows = fitted.fitted_.groups.of_row
    path = forged(
        names, rows[change.get("rows", slice(None))].astype(change.get("dtype", np.int64)), fitted, tmp_path / "f"
    )
    with pytest.raises(DetectorFileError, match=message):
        Detector.load(path, network())


@pytest.mark.simulation
def test_the_rate_of_each_kind_is_exact() -> None:
    """A kind whose scores are larger has all the false alarms of the pool, and its own share of conditional ones."""
    rng, trials, flagged = np.random.default_rng(0), 3000, np.zeros((2, 2))
    known = CalibrationGroups(("easy", "hard"), np.repeat([0, 1], [79, 39]))
    for _ in range(trials):
        scores, new = rng.standard_normal(118) + 2 * known.of_row, rng.standard_normal(2) + np.array([0, 2])
        kinds = Kinds.of(None, ["easy", "hard"], known, known.of_row, np.array([0, 0]))
        p, _ = kinds.p_values(scores, np.sort(scores), new, 19)
        pooled, _ = Kinds(known.of_row, np.array([-1, -1]), ()).p_values(scores, np.sort(scores), new, 19)
        flagged += np.stack([p <= 0.05, pooled <= 0.05])
    low, high = stats.binom.interval(0.999, trials, 0.05)
    assert ((low <= flagged[0]) & (flagged[0] <= high)).all()
    assert flagged[1, 1] > 1.5 * high
    assert flagged[1, 0] < low
