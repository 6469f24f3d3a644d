"""Decisions of a person count by the inverse of the probability with which they were drawn, or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gradgeo import Detector
from gradgeo.detector.calibration.conformal import Level
from gradgeo.errors import DataError
from gradgeo.scoring.decisions import CHOICES, Decision, Decisions, Drawn, Sampling, _at_least
from gradgeo.scoring.site_check import check_decisions
from helpers.nets import inputs, network

TIME = "2026-11-29T10:11:12Z"
RATE = Level(0.05).rate(339)


def drawn(
    rng: np.random.Generator, flagged: tuple[int, int], trusted: tuple[int, int], *, shown: int = 60
) -> Decisions:
    """Decisions on a sample of a population with (right, wrong) flagged and trusted inputs."""
    made, counts, start = [], [], 0
    for is_trusted, (right, wrong) in ((False, flagged), (True, trusted)):
        truth = rng.permutation(np.r_[np.ones(right, bool), np.zeros(wrong, bool)])
        chosen = rng.permutation(right + wrong)[:shown]
        counts.append(Drawn(right + wrong, len(chosen)))
        made += [
            Decision(start + int(i), f"{i}", 0.5 if is_trusted else 0.01, is_trusted, CHOICES[not truth[i]], TIME)
            for i in chosen
        ]
        start += right + wrong
    return Decisions("r", "0" * 64, Sampling(*counts, seed=0, share=0.5), tuple(made))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    decisions = drawn(np.random.default_rng(0), (40, 10), (900, 100))
    decisions.write(tmp_path / "d.json")
    assert Decisions.read(tmp_path / "d.json") == decisions
    assert decisions.weights() == {False: 1.0, True: 1000 / 60}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("sampling"), "no sampling record, without which decisions say nothing"),
        (lambda d: d.update(format="gradgeo.decisions/2"), "its format is not gradgeo.decisions/1"),
        (lambda d: d.update(detector="abc"), "detector is no digest"),
        (lambda d: d.update(more=1), "lacks or should not have more"),
        (lambda d: d["decisions"][0].update(decision="maybe"), "a decision is none of agree, wrong_class"),
        (lambda d: d["decisions"][0].update(p=0), "a p is not within"),
        (lambda d: d["decisions"][0].update(time="yesterdayZ"), "yesterday"),
        (lambda d: d["decisions"][0].update(index=d["decisions"][1]["index"]), "an index is decided twice"),
        (lambda d: d["decisions"][0].pop("name"), "a decision lacks or should not have name"),
        (lambda d: d["sampling"]["flagged"].update(shown=3), "more are decided than were shown"),
        (lambda d: d["sampling"]["trusted"].update(population=3), "more are shown than there are"),
        (lambda d: d["sampling"].update(share=2), "its seed or share is not valid"),
        (lambda d: d["sampling"]["trusted"].update(shown=True), "are no counts"),
    ],
)
def test_another_file_is_refused(change: object, message: str, tmp_path: Path) -> None:
    document = drawn(np.random.default_rng(0), (40, 10), (90, 10)).as_dict()
    change(document)
    (tmp_path / "d.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=rf"Decisions\.read: .*d\.json is no file of decisions: .*{message}"):
        Decisions.read(tmp_path / "d.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        Decisions.read(tmp_path / "none.json")


def test_flagged_ones_alone_are_refused() -> None:
    decisions = drawn(np.random.default_rng(0), (40, 10), (900, 100))
    alone = Decisions("r", "0" * 64, decisions.sampling, tuple(d for d in decisions.decisions if not d.trusted))
    with pytest.raises(
        DataError, match=r"some of the 1,000 trusted inputs, got none\. Decisions on flagged ones alone"
    ):
        alone.agreed()


def test_rates_hold_where_the_population_holds() -> None:
    """Over sites whose rate is that of an own calibration set, with mistakes of either kind: level 5 %."""
    rng, exceeded, off = np.random.default_rng(1), 0, 0
    for _ in range(50):
        own = rng.beta(RATE.ranks, 340 - RATE.ranks)
        for factor in (1, 6):
            flagged = int(rng.binomial(1000, min(1, factor * own)))
            decisions = drawn(rng, (flagged, 60), (1000 - flagged, 40))
            low, high = decisions.right(True, 0.025)
            assert low - 40 <= 1000 - flagged <= high + 40
            if factor == 1:
                exceeded += decisions.chance(RATE) <= 0.05
            else:
                off += decisions.chance(RATE) <= 0.05
    assert exceeded <= stats.binom.ppf(0.999, 50, 0.05)
    assert off > 40


def test_kept_decisions_are_drawn_alike() -> None:
    """Each right prediction of the population has the same chance, flagged or not: the mean p-value is unbiased."""
    rng = np.random.default_rng(2)
    flagged = [int((drawn(rng, (100, 50), (900, 0)).agreed(seed) < 150).sum()) for seed in range(200)]
    kept = [len(drawn(rng, (100, 50), (900, 0)).agreed(seed)) for seed in range(200)]
    assert np.sum(flagged) / np.sum(kept) == pytest.approx(0.1, abs=0.02)


def test_the_law_of_a_sample_is_that_of_scipy() -> None:
    for x, population, right, count in (
        (3, 50, 20, 10),
        (0, 50, 20, 10),
        (9, 10, 9, 9),
        (8, 9000, 50, 60),
        (1, 5, 0, 2),
    ):
        assert _at_least(x, population, right, count) == pytest.approx(
            stats.hypergeom.sf(x - 1, population, right, count), abs=1e-12
        )


def test_a_check_by_decisions() -> None:
    detector = Detector(network(), evidence=["confidence"], alpha=0.1).fit(inputs(300, shape=(12,)))
    rng = np.random.default_rng(0)
    fine, off = (drawn(rng, (n, 30), (1000 - n, 40), shown=200) for n in (80, 500))
    with pytest.raises(DataError, match="on verdicts of the detector 0000000000000000, this one is"):
        check_decisions(detector, fine)
    fine, off = (Decisions("r", detector.digest(), each.sampling, each.decisions) for each in (fine, off))
    found = check_decisions(detector, fine)
    assert found.verdict == "not exceeded"
    assert found.rates[0].low < 0.08 < found.rates[0].high
    assert 0.1 < found.rates[0].smallest_seen < 0.3
    assert check_decisions(detector, off).verdict == "exceeded"
