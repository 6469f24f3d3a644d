"""Properties that hold whatever the shapes, types, layouts and options: geometry, evidence, detector (Hypothesis)."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradgeo
from benchmarks import reference
from gradgeo import Detector
from gradgeo.detector.calibration import conformal
from gradgeo.detector.results import Predictions
from gradgeo.errors import UnusableInputWarning
from gradgeo.geometry.losses import LOSSES

few = settings(derandomize=True, deadline=None, max_examples=20, database=None)
"""The same examples in every run."""

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}

shapes = st.one_of(
    st.tuples(st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(2, 9)),
    st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5)),
    st.tuples(st.integers(1, 2), st.integers(2, 3), st.integers(2, 3), st.integers(2, 3)),
)


class Smooth(nn.Module):
    """A convolution where there is room for one, BatchNorm, a smooth bend, a linear head."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, head: bool) -> None:
        super().__init__()
        first: dict[int, Any] = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
        norm: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}
        rank = len(shape)
        self.first = first[rank](shape[0], width, **({} if rank == 1 else {"kernel_size": 2}))
        self.norm, self.head, self.after = norm[rank](width), nn.Linear(width, classes), head

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.first(x)))
        logits = self.head(h.flatten(2).mean(2) if h.ndim > 2 else h)
        return logits if self.after else logits + 0.1 * torch.sin(logits)


@st.composite
def classifiers(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A model of 2 to 7 classes and 1 to 5 inputs, in float32 or float64, in some layout."""
    shape, classes = draw(shapes), draw(st.integers(2, 7))
    n, seed, dtype = draw(st.integers(1, 5)), draw(st.integers(0, 999)), draw(st.sampled_from([*TOLERANCE]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Smooth(shape, classes, draw(st.integers(1, 9)), draw(st.booleans())).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        assert model.norm.running_mean is not None
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        x = torch.rand(n, *shape)
    return model.to(dtype), laid_out(x.to(draw(st.sampled_from([*TOLERANCE]))), draw(st.sampled_from(LAYOUTS)))


LAYOUTS = ("contiguous", "channels last", "strided", "expanded", "turned", "offset")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same shape, and but for "expanded" the same values, in another layout."""
    if layout == "channels last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        return torch.stack([x, -x], dim=-1).flatten(-2)[..., ::2]
    if layout == "expanded":
        return x[:1].expand_as(x)
    if layout == "turned":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "offset":
        return torch.cat([x.flatten().new_zeros(3), x.flatten()])[3:].view_as(x)
    return x


options = st.fixed_dictionaries(
    {"loss": st.sampled_from(LOSSES)},
    optional={"temperature": st.sampled_from([0.5, 3.0, 20.0]), "rescale": st.booleans()},
)


def exact_maps(model: nn.Module, x: Tensor, chosen: dict[str, Any]) -> Tensor:
    return reference.maps(model, x.to(next(model.parameters()).dtype), **chosen)


def defined(maps: Tensor, options: dict[str, Any]) -> Tensor:
    """Pairs of maps that are not zero but for rounding (after rescaling the largest logit is a constant)."""
    size = maps.flatten(2).norm(dim=2)
    alive = size > 1e-6 * size.amax(1, keepdim=True).clamp_min(1e-12)
    return alive[:, :, None] & alive[:, None, :]


@pytest.mark.rounding
@few
@given(classifiers(), options)
def test_maps_and_matrices_equal_the_float64_loop(case: tuple[nn.Module, Tensor], chosen: dict[str, Any]) -> None:
    model, x = case
    dtype = next(model.parameters()).dtype
    exact = exact_maps(model, x, chosen)
    maps = gradgeo.saliency_maps(model, x, sign=False, **chosen)
    assert maps.dtype == dtype
    assert maps.shape == (len(x), exact.shape[1], *x.shape[1:])
    size = exact.flatten(1).abs().amax(1).view(-1, *[1] * (exact.ndim - 1))
    assert ((maps.double() - exact).abs() <= TOLERANCE[dtype] * size).all()
    pairs = defined(exact, chosen)
    unsigned = gradgeo.csm(model, x, sign=False, **chosen).double()
    assert (unsigned - gradgeo.cosine_similarity_matrix(exact)).abs()[pairs].max() <= 10 * TOLERANCE[dtype]
    one = exact.shape[:2] + (1,) * (exact.ndim - 2)
    near = (exact.abs() < 1e-5 * exact.flatten(2).abs().amax(2).view(one)) | ~pairs.any(2).view(one)
    signs = gradgeo.saliency_maps(model, x, **chosen).double()
    assert ((signs == exact.sign()) | near).all()


@few
@given(classifiers(), options, st.booleans())
def test_matrices_are_symmetric_bounded_and_have_a_unit_diagonal(
    case: tuple[nn.Module, Tensor], chosen: dict[str, Any], sign: bool
) -> None:
    matrices = gradgeo.csm(*case, sign=sign, **chosen)
    assert torch.equal(matrices, matrices.mT)
    assert (matrices.abs() <= 1).all()
    assert (matrices.diagonal(dim1=1, dim2=2) == 1).all()
    if sign:
        assert torch.equal(gradgeo.cosine_similarity_matrix(gradgeo.saliency_maps(*case, **chosen)), matrices)


@few
@given(classifiers(), options, st.data())
def test_neither_batch_nor_chunk_nor_layout_matters(
    case: tuple[nn.Module, Tensor], chosen: dict[str, Any], data: st.DataObject
) -> None:
    model, x = case
    tolerance = 10 * TOLERANCE[next(model.parameters()).dtype]
    whole = gradgeo.csm(model, x, sign=False, **chosen)
    pairs = defined(exact_maps(model, x, chosen), chosen)
    order = torch.tensor(data.draw(st.permutations(range(len(x)))))
    for other in (
        gradgeo.csm(model, x[order], sign=False, **chosen)[order.argsort()],
        gradgeo.csm(model, x, sign=False, chunk_size=data.draw(st.integers(1, 4)), **chosen),
        torch.cat([gradgeo.csm(model, row[None], sign=False, **chosen) for row in x]),
        gradgeo.csm(model, x.contiguous(), sign=False, **chosen),
        gradgeo.csm(model, torch.cat([x, torch.full_like(x[:1], 0.3)]), sign=False, **chosen)[:-1],
    ):
        assert ((other - whole).abs()[pairs] <= tolerance).all()


@few
@given(classifiers(), options, st.data())
def test_chosen_classes_are_rows_of_all(
    case: tuple[nn.Module, Tensor], chosen: dict[str, Any], data: st.DataObject
) -> None:
    model, x = case
    every = gradgeo.saliency_maps(model, x, sign=False, **chosen)
    total = every.shape[1]
    size = every.flatten(1).abs().amax(1).view(-1, *[1] * (every.ndim - 1))
    picked = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=total, unique=True))
    some = gradgeo.saliency_maps(model, x, classes=torch.tensor(picked), sign=False, **chosen)
    tolerance = TOLERANCE[next(model.parameters()).dtype]
    assert ((some - every[:, picked]).abs() <= tolerance * size).all()
    top = data.draw(st.integers(2, total))
    most = model(x.to(some.dtype)).topk(top).indices
    likely = gradgeo.saliency_maps(model, x, classes=top, sign=False, **chosen)
    expected = every[torch.arange(len(x))[:, None], most]
    assert ((likely - expected).abs() <= tolerance * size).all()


@few
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 99), st.sampled_from([torch.float32, torch.float64]))
def test_statistics_follow_the_samples_and_not_the_numbering(
    classes: int, n: int, seed: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, classes, 7, generator=generator).to(dtype)
    predicted = torch.randint(classes, (n,), generator=generator)
    matrices = gradgeo.cosine_similarity_matrix(maps.sign())
    found = gradgeo.csm_statistics(matrices, predicted)
    alone = torch.cat([gradgeo.csm_statistics(matrices[i : i + 1], predicted[i : i + 1]) for i in range(n)])
    assert torch.equal(found, alone)
    order = torch.randperm(classes, generator=generator)
    turned = gradgeo.csm_statistics(matrices[:, order][:, :, order], order.argsort()[predicted])
    assert torch.equal(found, turned)


X = torch.rand(140, 1, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["full", "fast", "lite", "paper"])
def detector(request: pytest.FixtureRequest) -> Detector:
    torch.manual_seed(0)
    model = Smooth((1, 5, 4), 4, 6, head=True).double().eval()  # no rounding that a score could see
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return Detector(model, alpha=0.1, evidence=request.param).fit(X[:100])


rows = st.lists(st.integers(100, 139), min_size=1, max_size=7)


def equal(a: Predictions, b: Predictions) -> bool:
    return all(
        torch.allclose(getattr(a, f.name).double(), getattr(b, f.name).double(), rtol=1e-6, atol=1e-6, equal_nan=True)
        for f in dataclasses.fields(a)
    )


@settings(few, max_examples=8)
@given(chosen=rows, data=st.data())
def test_verdicts_belong_to_inputs_not_to_batches(detector: Detector, chosen: list[int], data: st.DataObject) -> None:
    x = X[chosen]
    verdict = detector.predict(x)
    order = torch.tensor(data.draw(st.permutations(range(len(x)))))
    assert equal(detector.predict(x[order]), verdict[order])
    size = detector.batch_size
    try:
        detector.batch_size = data.draw(st.integers(1, 3))
        assert equal(
            detector.predict(laid_out(x, data.draw(st.sampled_from(["strided", "channels last", "turned"])))), verdict
        )
    finally:
        detector.batch_size = size
    n = detector.calibration_size_
    ranks = verdict.p_value * (n + 1)
    assert torch.allclose(ranks, ranks.round(), atol=1e-9)
    assert ((ranks.round() >= 1) & (ranks.round() <= n + 1)).all()
    assert torch.equal(verdict.trusted, verdict.p_value > detector.alpha)
    assert torch.equal(detector.outlier_score(x.numpy()), verdict.outlier_score)


@settings(few, max_examples=8)
@given(chosen=rows, data=st.data(), value=st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_bad_rows_are_nan_and_alone(detector: Detector, chosen: list[int], data: st.DataObject, value: float) -> None:
    x = X[chosen].double()
    bad = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x))))
    assume(bool(bad.any()))
    clean = detector.predict(x)
    x[bad, 0, data.draw(st.integers(0, 4)), data.draw(st.integers(0, 3))] = value
    with pytest.warns(UnusableInputWarning, match=f"{int(bad.sum())} of {len(x)} inputs have NaN or infinite values"):
        verdict = detector.predict(x)
    assert verdict.p_value[bad].isnan().all()
    assert verdict.outlier_score[bad].isnan().all()
    assert not verdict.trusted[bad].any()
    assert (verdict.label[bad] == -1).all()
    assert equal(verdict[~bad], clean[~bad])


@few
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), max_size=20),
)
def test_p_values_are_ranks_that_fall_as_scores_rise(calibration: list[float], scores: list[float]) -> None:
    known, asked = np.sort(np.array(calibration)), np.array(scores, dtype=np.float64)
    p = conformal.p_values(known, asked)
    for score, value in zip(asked, p, strict=True):
        expected = (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)
        assert value == expected or (np.isnan(score) and np.isnan(value))
    valid = ~np.isnan(asked)
    assert (np.diff(p[valid][np.argsort(asked[valid], kind="stable")]) <= 0).all()


@few
@given(st.integers(30, 400), st.sampled_from([0.01, 0.05, 0.1, 0.2]), st.floats(0.05, 0.95))
def test_calibration_sizes_make_the_stated_rate_exact(n: int, alpha: float, share: float) -> None:
    needed = conformal.min_calibration_size(alpha)
    assume(needed <= n - 10)
    size = conformal.calibration_size(n, share, alpha, at_most=n - 10)
    assert needed <= size <= n - 10
    assert round(alpha * (size + 1), 9) == round(alpha * (size + 1))
