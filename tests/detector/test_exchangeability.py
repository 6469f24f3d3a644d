"""Copies among the inputs of `fit` count once, and groups stay on one side of the split."""

import numpy as np
import pytest
import torch

from gradgeo import Detector, GradgeoWarning
from gradgeo.detector.fit import fitting
from gradgeo.detector.fit.data_scan import scan
from gradgeo.detector.fit.exchangeability import set_apart
from gradgeo.errors import ArgumentError
from helpers.nets import inputs, network

X = inputs(120, shape=(12,))
SETTINGS = Detector(network(), evidence=["confidence"], alpha=0.1).settings


def sides(groups: np.ndarray | list | None, x: torch.Tensor = X) -> tuple[set[int], set[int]]:
    """The positions that are learned from, and those that calibrate."""
    scanned = scan(network(), x, None, batch_size=64)
    trusted, _ = fitting.split(network(), scanned, SETTINGS, groups)
    return set(trusted.learn_rows.tolist()), set(trusted.rows[trusted.calibrates].tolist())


def test_copies_count_once_and_are_said() -> None:
    rows = torch.cat([torch.arange(120), torch.arange(40)])
    mixed = rows[torch.randperm(160, generator=torch.Generator().manual_seed(0))]
    with pytest.warns(GradgeoWarning, match="40 of 160 inputs are copies of others and count once") as caught:
        detector = Detector(network(), evidence=["confidence"], alpha=0.1).fit(X[mixed])
    assert len(caught) == 1
    assert detector.fit_size_ + detector.calibration_size_ == 120
    learned, calibrated = sides(None, X[mixed])
    used = mixed[sorted(learned | calibrated)]
    assert sorted(used.tolist()) == list(range(120))


def test_copies_at_the_end_leave_the_fit_as_it_is_without_them() -> None:
    alone = Detector(network(), alpha=0.1).fit(X)
    with pytest.warns(GradgeoWarning, match="240 of 360 inputs are copies"):
        copied = Detector(network(), alpha=0.1).fit(X.repeat(3, 1))
    assert copied.digest() == alone.digest()


def test_an_unusable_or_misclassified_twin_is_no_original() -> None:
    x, y = torch.cat([X, X[:5]]), network()(torch.cat([X, X[:5]])).argmax(1)
    y[:5] = (y[:5] + 1) % 4
    detector = Detector(network(), evidence=["confidence"], alpha=0.1).fit(x, y)
    assert (detector.misclassified_, detector.fit_size_ + detector.calibration_size_) == (5, 120)


def test_too_few_different_inputs() -> None:
    with (
        pytest.warns(GradgeoWarning, match="copies"),
        pytest.raises(ArgumentError, match=r"got 12 of 120 .* 108 copies"),
    ):
        Detector(network(), alpha=0.1).fit(X[:12].repeat(10, 1))


def test_without_groups_the_split_is_the_permutation_of_the_rows() -> None:
    order = np.random.default_rng(SETTINGS.seed).permutation(120)
    _, calibrated = sides(None)
    assert calibrated == set(order[: len(calibrated)].tolist())
    assert len(calibrated) == 59
    assert sides(list(range(120))) == sides(None)


@pytest.mark.parametrize("names", [list("abcdefghijklmnopqrstuvwx"), list(range(24)), torch.arange(24)])
def test_groups_stay_on_one_side(names: list) -> None:
    groups = [names[i % 24] for i in range(120)]
    learned, calibrated = sides(torch.stack(groups) if isinstance(names, torch.Tensor) else groups)
    assert {i % 24 for i in learned}.isdisjoint(i % 24 for i in calibrated)
    assert len(learned | calibrated) == 120
    assert 50 <= len(calibrated) <= 70


def test_groups_of_different_sizes_leave_enough_on_both_sides() -> None:
    for seed in range(20):
        groups = np.random.default_rng(seed).integers(0, 7, 120) ** 2 + 50 * (np.arange(120) % 5)
        apart = set_apart(groups, 59, 20, SETTINGS)
        assert apart.sum() >= 9
        assert (~apart).sum() >= 20
        assert set(groups[apart]).isdisjoint(groups[~apart])


def test_few_groups_are_said_and_too_few_are_refused() -> None:
    with pytest.warns(GradgeoWarning, match=r"only \d groups calibrate"):
        Detector(network(), evidence=["confidence"], alpha=0.1).fit(X, together=np.arange(120) // 20)
    with pytest.raises(ArgumentError, match=r"Detector\.fit: expected groups that leave .* got 1 groups of up to 120"):
        Detector(network(), evidence=["confidence"], alpha=0.1).fit(X, together=np.zeros(120, int))


@pytest.mark.parametrize("argument", ["groups", "together"])
@pytest.mark.parametrize("groups", ["a" * 120, 3, [0] * 119, [[0]] * 120, [0.5] * 120, np.zeros((120, 2), int)])
def test_what_is_no_group_for_each_input(argument: str, groups: object) -> None:
    with pytest.raises(ArgumentError, match=f"expected {argument} to be one number or text for each of 120 inputs"):
        Detector(network(), evidence=["confidence"], alpha=0.1).fit(X, **{argument: groups})


def test_a_group_too_small_for_a_rate_of_its_own_stays_on_one_side_and_a_large_one_is_split() -> None:
    groups = [f"patient {i // 4}" if i < 40 else f"site {i % 2}" for i in range(120)]  # ten of 4, two of 40
    scanned = scan(network(), X, None, batch_size=64)
    trusted, _ = fitting.split(network(), scanned, SETTINGS, None, groups)
    calibrated: dict[str, set[bool]] = {name: set() for name in groups}
    for row, calibrates in zip(trusted.rows, trusted.calibrates, strict=True):
        calibrated[groups[row]].add(bool(calibrates))
    assert {len(sides) for name, sides in calibrated.items() if name.startswith("patient")} == {1}
    assert {len(sides) for name, sides in calibrated.items() if name.startswith("site")} == {2}
