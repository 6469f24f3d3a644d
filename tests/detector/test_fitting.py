"""The four steps of a fit, each by itself: what is scanned, split, extracted and learned."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gradgeo import Detector
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.detector.extraction import RIVALS, EvidenceExtractor
from gradgeo.detector.fit import fitting
from gradgeo.detector.fit.data_scan import scan
from gradgeo.detector.settings import Settings
from gradgeo.errors import ArgumentError
from gradgeo.geometry.autograd import AutogradJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps
from helpers.nets import inputs, network

X = inputs(120, shape=(12,))


def settings(**changed: object) -> Settings:
    return Settings(
        **{
            **{"evidence": "fast", "alpha": 0.1, "classes": None, "loss": "cross_entropy", "temperature": "auto"},
            **{"calibration": 0.5, "seed": 0, "batch_size": 64},
            **changed,
        }
    )


def wide(classes: int, *, head: bool) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, classes)]
    return nn.Sequential(*body, *([] if head else [nn.Softplus()])).eval()


@pytest.fixture
def backward_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cotangents of each sample that went through a model backwards, one entry for each call."""
    made: list[int] = []
    rows = AutogradJacobian._rows

    def counted(self: AutogradJacobian, cotangents: Tensor) -> Tensor:
        made.append(cotangents.shape[1])
        return rows(self, cotangents)

    monkeypatch.setattr(AutogradJacobian, "_rows", counted)
    return made


@pytest.mark.parametrize("head", [True, False], ids=["linear head", "no linear head"])
def test_the_radius_takes_a_dozen_backward_passes_of_200_classes(head: bool, backward_passes: list[int]) -> None:
    Detector(wide(200, head=head), evidence=["confidence", "stability"], alpha=0.2).fit(X)
    assert 0 < max(backward_passes) <= RIVALS


@pytest.mark.parametrize("classes", [3, RIVALS + 1, RIVALS + 2, 40])
def test_the_nearest_boundary_is_among_the_likely_rivals(classes: int, backward_passes: list[int]) -> None:
    """Of up to 13 classes all rivals are looked at; of more the radius hardly differs, and is never smaller."""
    model = wide(classes, head=False)
    extractor = EvidenceExtractor((), Maps(Loss("cross_entropy", 1.0)))
    radius = extractor.typical_radius(model, [X], classes, batch_size=64)
    leaf = X.clone().requires_grad_()
    logits = model(leaf)
    predicted = logits.argmax(1)
    nearest = torch.full((len(X),), torch.inf)
    for other in range(classes):
        gap = logits.gather(1, predicted[:, None])[:, 0] - logits[:, other]
        (gradient,) = torch.autograd.grad(gap.sum(), leaf, retain_graph=True)
        distance = torch.where(predicted == other, torch.inf, gap.detach() / gradient.norm(dim=1))
        nearest = torch.minimum(nearest, distance)
    exact = float(nearest.median()) / 12**0.5
    assert radius == pytest.approx(exact, rel=1e-4 if classes <= RIVALS + 1 else 0.02)
    assert radius >= exact * (1 - 1e-4)


def test_scan_and_split_by_themselves() -> None:
    model, labels = network(inputs=12), network(inputs=12)(X).argmax(1)
    labels[::10] = (labels[::10] + 1) % 4
    x = X.clone()
    x[1] = torch.nan
    scanned = scan(model, x, labels, batch_size=50)
    assert (scanned.misclassified, scanned.unusable, int(scanned.trusted.sum())) == (12, 1, 107)
    assert scanned.exclusion_reason == "12 are misclassified, 1 unusable"
    trusted, extractor = fitting.split(model, scanned, settings())
    assert trusted.rows.tolist() == [i for i in range(120) if i % 10 and i != 1]
    assert sorted([*trusted.learn_rows, *trusted.rows[trusted.calibrates]]) == trusted.rows.tolist()
    assert (0.1 * (trusted.calibrates.sum() + 1)) % 1 == pytest.approx(0, abs=1e-9)
    assert extractor.maps.loss.temperature == fitting.typical_temperature(trusted.margins[~trusted.calibrates])
    again, _ = fitting.split(model, scanned, settings())
    assert np.array_equal(again.calibrates, trusted.calibrates)
    other, _ = fitting.split(model, scanned, settings(seed=1))
    assert not np.array_equal(other.calibrates, trusted.calibrates)


NO_MISTAKES = fitting.Mistakes(np.empty(0, np.int64), np.empty(0, np.int64))


def test_a_second_reading_may_be_neither_longer_nor_shorter_nor_other() -> None:
    model = network(inputs=12)
    scanned = scan(model, X, None, batch_size=64)
    trusted, extractor = fitting.split(model, scanned, settings(evidence=["confidence"]))
    for data, got in (
        (torch.cat([X, X]), "more inputs at the second"),
        (X[:50], "other predictions at the second"),
        (X.flip(0), "other predictions at the second"),
    ):
        with pytest.raises(ArgumentError, match=f"data to be the same at both readings, got '{got}'"):
            fitting.extract(model, data, trusted, extractor, NO_MISTAKES, settings=settings(evidence=["confidence"]))


def test_the_temperature_has_one_rule_and_a_floor() -> None:
    assert fitting.typical_temperature(np.array([0.0, 1.0, 2.0, 3.0, 4.0])) == 3.0
    assert fitting.typical_temperature(np.zeros(9)) == 1e-6
    undecided = nn.Sequential(nn.Linear(12, 4))
    nn.init.zeros_(undecided[0].weight), nn.init.zeros_(undecided[0].bias)
    tied = ClassifierUnderTest("tied", undecided, X, torch.zeros(120).long(), 60)
    assert tied.temperature == 1e-6


class Table:
    """What pandas and polars have in common: a length, columns by name, and a way to their numbers."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, column: object) -> object:
        raise KeyError(column)

    def to_numpy(self) -> np.ndarray:
        return self.numbers


class Column(Table):
    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        frozen = np.asarray(self.numbers, dtype)
        frozen.flags.writeable = False  # as pandas has it
        return frozen


@pytest.mark.filterwarnings("error")
def test_labels_may_be_a_column_of_a_table() -> None:
    model = network(inputs=12)
    labels = model(X).argmax(1)
    labels[::10] = (labels[::10] + 1) % 4
    frozen = labels.numpy().copy()
    frozen.flags.writeable = False
    for given in (Column(labels.numpy()), frozen, labels.numpy().astype(np.uint8), labels.tolist()):
        assert Detector(model, evidence=["confidence"], alpha=0.2).fit(X, given).misclassified_ == 12
    for wrong, advice in (
        (Column(np.array(["cat"] * 120, object)), "Number the classes as the model does"),
        (Column(np.zeros((120, 1), int)), r"df\['label'\]"),
    ):
        with pytest.raises(ArgumentError, match=rf"labels to be integers of shape \(N,\), got a Column .*{advice}"):
            Detector(model).fit(X, wrong)


@pytest.mark.parametrize(("name", "label"), [("image", "label"), ("pixel_values", "labels"), ("x", None)])
def test_items_may_be_mappings(name: str, label: str | None) -> None:
    model = network(inputs=12)
    labels = model(X).argmax(1)
    labels[::10] = (labels[::10] + 1) % 4
    items = [{"id": i, name: x} | ({label: y} if label else {}) for i, (x, y) in enumerate(zip(X, labels, strict=True))]
    detector = Detector(model, evidence=["confidence"], alpha=0.2).fit(items_of(items))
    assert detector.misclassified_ == (12 if label else 0)
    assert torch.equal(detector.predict(items_of(items)).p_value, detector.predict(X).p_value)
    with pytest.raises(ArgumentError, match=r"a mapping with one of the keys image, .*got 'one with id, picture'"):
        detector.predict(items_of([{"id": 0, "picture": X[0]}]))


def items_of(items: list[dict[str, object]]) -> Dataset[dict[str, object]]:
    class Items(Dataset[dict[str, object]]):
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, index: int) -> dict[str, object]:
            return items[index]

    return Items()
