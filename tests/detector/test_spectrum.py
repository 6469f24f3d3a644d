"""The input itself: its range, its level, and its power by octave, against the definition in numpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo._typing import Array
from gradgeo.detector.spectrum import INVISIBLE, OCTAVES, seen, spectrum


def by_definition(x: Array) -> list[float]:
    """Of one input (channels, ...), by block variances: the power of an octave is what averaging takes away."""
    axes = tuple(range(1, x.ndim))
    powers = [np.square(x - x.mean(0)).mean()] if len(x) > 1 else []
    coarse = x
    for _ in range(OCTAVES):
        if max(coarse.shape[1:]) < 2:
            break
        even = tuple(slice(0, size // 2 * 2 if size > 1 else 1) for size in coarse.shape[1:])
        whole = coarse[(slice(None), *even)]
        coarse = whole
        for axis in axes:
            if whole.shape[axis] > 1:
                halves = coarse.reshape(*coarse.shape[:axis], -1, 2, *coarse.shape[axis + 1 :])
                coarse = halves.mean(axis + 1)
        powers.append(np.square(whole).mean() - np.square(coarse).mean())
    floor = INVISIBLE * np.square(x).mean()
    return [x.mean(), x.max(), x.min(), *np.log(np.array(powers) + floor)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 7, 12), (2, 140), (1, 5), (2, 4, 6, 8), (1, 1, 9)])
def test_as_defined(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    expected = [by_definition(row.double().numpy()) for row in x]
    assert spectrum(x).dtype == torch.float64
    np.testing.assert_allclose(spectrum(x).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_what_each_feature_sees() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    sharp, soft, faint = spectrum(x)[0], spectrum(blurred)[0], spectrum(0.5 + 0.1 * (x - 0.5))[0]
    assert sharp[4] > soft[4] + 2  # the finest octave
    assert (sharp[4:] - faint[4:]).numpy() == pytest.approx(2 * np.log(10), abs=1e-5)  # every octave alike
    grey = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert spectrum(grey)[0, 3] < -20  # nothing that the channels do not share


def test_a_constant_input_is_finite_and_far_from_all_others() -> None:
    flat = spectrum(torch.full((2, 1, 8, 8), 0.3))
    assert flat.isfinite().all()
    assert spectrum(torch.zeros(1, 1, 8, 8)).isfinite().all()
    assert (flat[:, 3:] < -20).all()


def test_it_can_be_followed_by_gradients_and_an_undefined_input_stays_undefined() -> None:
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(spectrum, x)
    spoilt = x.detach().clone()
    spoilt[1, 0, 2, 2] = torch.nan
    assert spectrum(spoilt).isnan().any(1).tolist() == [False, True]


def test_a_detector_of_it_alone_flags_what_the_classifier_overlooks() -> None:
    x = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
    detector = gradgeo.Detector(model, evidence=["confidence", "spectrum"]).fit(x[:300])
    assert detector.predict(x[300:]).trusted.double().mean() > 0.85
    assert not detector.predict(0.5 + 0.02 * (x[300:] - 0.5)).trusted.any()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda x: x, ()),
        (lambda x: torch.full_like(x, 0.5), ("constant",)),
        (lambda x: torch.zeros_like(x), ("constant", "lower on average (darker)")),
        (lambda x: 0.3 * x, ("lower on average (darker)", "no entry as high")),
        (lambda x: (x + 0.6).clamp(max=1), ("higher on average (lighter)", "no entry as low")),
        (lambda x: 0.5 + 0.05 * (x - 0.5), ("no entry as high", "no entry as low", "less contrast")),
        (lambda x: x + 3 * torch.randn_like(x), ("entries too high", "entries too low", "more fine detail (noisy)")),
        (lambda x: x.mean(1, keepdim=True).expand_as(x), ("channels more alike (less colour)",)),
        (lambda x: torch.nn.functional.avg_pool2d(x, 7, 1, 3), ("less fine detail (blurred)",)),
    ],
)
def test_what_was_seen_in_words(changed: Callable[[Tensor], Tensor], words: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(60, 3, 4, 4), 16, mode="bilinear")
    x = 0.7 * coarse + 0.3 * torch.rand(60, 3, 16, 16)
    trusted = spectrum(x)
    low, high = trusted.amin(0).tolist(), trusted.amax(0).tolist()
    said = seen(spectrum(changed(x[:1]))[0].tolist(), low, high, 3)
    assert set(words) <= set(said), said
    assert bool(words) == bool(said)


def test_an_explanation_says_what_was_seen() -> None:
    x = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
    detector = gradgeo.Detector(model, evidence="lite").fit(x[:300])
    flat, *others = detector.explain(torch.cat([torch.full((1, 1, 8, 8), 0.5), x[300:]]))
    assert flat.seen == ("constant",)
    assert flat.as_dict()["seen"] == ["constant"]
    assert "beyond all trusted inputs: constant" in str(flat)
    assert all(why.seen == () for why in others if why.trusted)
    assert "beyond all" not in str(next(why for why in others if why.trusted))
