"""Whether a stated rate holds on a site: the test is exact, says what it would have seen, and takes any input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from gradgeo import Detector, GradgeoWarning
from gradgeo.detector.calibration.conformal import FalseAlarmRate, Level
from gradgeo.errors import ArgumentError
from gradgeo.report import check_page
from gradgeo.scoring.site_check import LEVEL, POWER, check
from helpers.commands import run
from helpers.nets import inputs, network

MODEL = network()
X, NEW = inputs(400, shape=(12,)), inputs(2000, seed=7, shape=(12,))
SITES = [("A", "B", "B", "B")[i % 4] for i in range(400)]


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(MODEL, evidence=["confidence"], alpha=0.1).fit(X, groups=SITES)


@pytest.mark.parametrize("judged", [1, 3, 50, 997])
def test_the_law_is_that_of_scipy(judged: int) -> None:
    rate = Level(0.05).rate(339)
    law = stats.betabinom(judged, rate.ranks, 340 - rate.ranks)
    x = np.arange(judged + 1)
    assert np.allclose(rate.tail(judged), law.sf(x - 1), atol=1e-12)
    assert [rate.chance_of_less(n, judged) for n in x[:5]] == pytest.approx(law.cdf(x[:5]), abs=1e-9)
    least = rate.least_excess(judged, 0.01)
    assert law.sf(least - 1) <= 0.01 < law.sf(least - 2)


def test_many_inputs_have_the_same_law_in_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    rate, judged = Level(0.05).rate(339), 20_000
    flagged = 1400
    exact = rate.chance_of_more(flagged, judged), rate.chance_of_less(flagged, judged), rate.least_excess(judged, 0.01)
    monkeypatch.setattr("gradgeo.detector.calibration.conformal.EXACT", 1000)
    limit = rate.chance_of_more(flagged, judged), rate.chance_of_less(flagged, judged), rate.least_excess(judged, 0.01)
    assert limit == pytest.approx(exact, rel=2e-2)
    assert FalseAlarmRate(0, 5, 0.95).chance_of_more(0, 10) == 1.0
    assert FalseAlarmRate(0, 5, 0.95).chance_of_more(1, 10) == 0.0


@pytest.mark.simulation
def test_where_rates_hold_one_is_rarely_said_to_be_exceeded(fitted: Detector) -> None:
    """Over calibration sets and sites, of exchangeable inputs: overall, classes and groups together at most `LEVEL`."""
    x = inputs(120 * 120, seed=3, shape=(12,))
    sites = [check(fitted.recalibrate(part[:80], why="test"), part[80:]) for part in x.split(120)]
    found = sum(site.verdict == "exceeded" for site in sites)
    assert found <= stats.binom.ppf(0.999, len(sites), LEVEL)
    assert len(sites[0].rates) > 2


def test_power_is_what_it_says() -> None:
    rate = Level(0.05).rate(339)
    least = rate.least_excess(400, LEVEL)
    from gradgeo.scoring.site_check import _smallest_seen

    seen = _smallest_seen(400, least)
    assert stats.binom.sf(least - 1, 400, seen) == pytest.approx(POWER)
    assert _smallest_seen(400, 401) is None


def test_a_site_that_differs(fitted: Detector) -> None:
    labels = fitted.predict(NEW).label
    labels[::20] = (labels[::20] + 1) % 4
    fine = check(fitted, NEW, labels, groups=[SITES[i % 400] for i in range(2000)])
    assert fine.verdict == "not exceeded"
    assert (fine.misclassified, fine.inputs, fine.rates[0].judged) == (100, 2000, 1900)
    assert {rate.by for rate in fine.rates} == {"all", "class", "group"}
    assert all(rate.compared == "own" for rate in fine.rates if rate.by == "group")
    assert [(rate.name, rate.p) for rate in fine.rates if rate.compared == "all"] == [("3", None)]  # too rare at fit
    flagged = int((~fitted.predict(NEW).trusted)[torch.arange(2000) % 20 != 0].sum())
    assert fine.rates[0].flagged == flagged

    off = check(fitted, NEW[fitted.p_value(NEW).argsort()[:900]])  # the half that looks less like calibration
    assert off.verdict == "exceeded"
    assert off.rates[0] in off.exceeded
    document = json.loads(json.dumps(off.as_dict()))
    assert document["verdict"] == "exceeded"
    assert document["rates"][0]["stated"]["flagged_ranks"] == off.rates[0].stated.ranks
    page = check_page.html(off, name="<b>ward</b>", made={"file": "d.gradgeo"})
    assert "does not hold here" in page
    assert "<b>ward" not in page


def test_bad_sites(fitted: Detector) -> None:
    three = check(fitted, NEW[:3])
    assert three.verdict == "too few inputs"
    assert "Too few inputs to tell" in check_page.answer(three)
    unseen = check(fitted, NEW[:50], groups=["C"] * 50)
    assert [rate.compared for rate in unseen.rates if rate.by == "group"] == ["unseen"]
    assert any("none of those that the detector was fitted with" in text for text in check_page.notes(unseen))
    copies = check(fitted, torch.cat([NEW[:50], NEW[:50]]))
    assert (copies.copies, copies.rates[0].judged) == (50, 50)
    with pytest.warns(GradgeoWarning, match="are the labels numbered as the model's classes are"):
        other = check(fitted, NEW[:50], (fitted.predict(NEW[:50]).label + 1) % 4)
    assert (other.rates[0].judged, other.verdict) == (0, "too few inputs")
    with pytest.raises(ArgumentError, match=r"check: expected labels to be within 0\.\.3, got '9\.\.9'"):
        check(fitted, NEW[:5], torch.full((5,), 9))
    with pytest.raises(ArgumentError, match="expected data to be at least one input"):
        check(fitted, NEW[:0])
    with pytest.raises(ArgumentError, match="expected level to be a number between 0 and 1"):
        check(fitted, NEW, level=2)
    with pytest.raises(ArgumentError, match="expected must_see to be"):
        check(fitted, NEW, must_see=0)
    with pytest.warns(GradgeoWarning, match="1 of 5 inputs"):
        assert check(fitted, torch.cat([NEW[:4], torch.full((1, 12), torch.nan)])).unusable == 1


def test_recalibrated_detectors_name_their_parents(fitted: Detector, tmp_path: Path) -> None:
    before = fitted.digest()
    labels = fitted.predict(NEW).label
    labels[:30] = (labels[:30] + 1) % 4
    new = fitted.recalibrate(NEW, labels, why="ward 3")
    assert fitted.digest() == before != new.digest()
    assert (new.calibration_size_, new.misclassified_, new.fit_size_) == (1970, 30, fitted.fit_size_)
    assert len(new.mistake_p_values_) == 30
    assert torch.equal(new.outlier_score(X[:9]), fitted.outlier_score(X[:9]))
    rank = 1 + int((new.outlier_score(NEW[30:]) >= new.outlier_score(X[:1])).sum())
    assert float(new.p_value(X[:1])) == pytest.approx(rank / 1971, abs=2 / 1971)  # scores round by batch
    assert [(each.digest, each.why) for each in new.lineage_] == [(before, "ward 3")]
    newer = new.recalibrate(NEW[:99], groups=["A"] * 99, why="summer")
    newer.save(tmp_path / "n.gradgeo")
    read = Detector.load(tmp_path / "n.gradgeo", MODEL)
    assert read.lineage_ == newer.lineage_
    assert [each.why for each in read.lineage_] == ["summer", "ward 3"]
    assert (read.groups_, read.digest()) == (("A",), newer.digest())
    with pytest.raises(ArgumentError, match=r"Detector\.recalibrate: expected at least 9 trusted inputs .* got 3 of 3"):
        fitted.recalibrate(NEW[:3], why="few")
    for why in ("", 3, "x" * 1001):
        with pytest.raises(ArgumentError, match="expected why to be a text"):
            fitted.recalibrate(NEW, why=why)


@pytest.mark.journey
def test_the_command_line(tmp_path: Path) -> None:
    file, new = tmp_path / "d.gradgeo", tmp_path / "n.gradgeo"
    assert run("fit", "-m", "digits", "-d", "digits/fit", "--evidence", "lite", "-o", file)[0] == 0
    code, out, err = run("check", file, "-d", "digits/test", "--labels", "-o", tmp_path / "c.html")
    assert (code, err) == (0, "")
    assert "not exceeded" in out
    assert "Nothing speaks against" in (tmp_path / "c.html").read_text()
    code, out, _ = run("check", file, "-d", "digits/test", "--limit", 3, "--json")
    assert (code, json.loads(out)["verdict"]) == (4, "too few inputs")
    code, _, err = run("check", file, "-d", "digits/fit", "--labels")
    assert code == 1
    assert "the very inputs that the detector was fitted on" in err
    np.savez(tmp_path / "other.npz", x=np.random.default_rng(0).random((40, 1, 8, 8), np.float32), y=["cat"] * 40)
    code, out, _ = run("check", file, "-d", tmp_path / "other.npz")
    assert code == 3
    assert "exceeded" in out
    code, _, err = run("check", file, "-d", tmp_path / "other.npz", "--labels")
    assert code == 1
    assert "are of another set: cat. The detector's are 0, 1, 2" in err
    assert run("check", file)[0] == 2
    code, out, err = run("recalibrate", file, "-d", "digits/test", "--labels", "--why", "ward 3", "-o", new)
    assert (code, err) == (0, "")
    file.unlink()
    code, out, _ = run("info", new, "--json")
    facts = json.loads(out)
    assert facts["fitted"]["lineage"][0]["why"] == "ward 3"
    assert facts["notes"]["recalibration"]["parent"]["file"] == "d.gradgeo"
    assert facts["notes"]["recalibration"]["parent"]["digest"] == facts["fitted"]["lineage"][0]["digest"]
    code, _, err = run("recalibrate", file, "-d", "digits/test", "--why", "x", "-o", new)
    assert code == 1
    assert "cannot read" in err
