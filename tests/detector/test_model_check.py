"""A model that changed after `fit` is never judged in silence, and never takes the place of the one at `fit`."""

import copy
import multiprocessing
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import gradgeo
from gradgeo import Detector, GradgeoWarning
from gradgeo.classifier import fingerprint
from gradgeo.errors import DetectorFileError
from helpers.nets import inputs, network

X = inputs(120, shape=(12,))
CHANGED = "not those the detector was fitted with"


@pytest.fixture
def fitted() -> Detector:
    return Detector(network(), alpha=0.1, evidence="fast").fit(X)


def train(model: nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.data += 0.01  # which moves neither address nor version


@pytest.mark.parametrize(
    "judge",
    [
        lambda d: d.predict(X[:2]),
        lambda d: d.judge(X[:2]),
        lambda d: d.explain(X[:2]),
        lambda d: d.differentiable_score(X[:2].clone().requires_grad_()),
        lambda d: gradgeo.guard(d.model, d)(X[:2]),
        lambda d: gradgeo.guard(d.model, d),
    ],
)
def test_changed_weights_are_said_once(fitted: Detector, judge: Callable[[Detector], object]) -> None:
    fitted.predict(X[:2])
    train(fitted.model)
    with pytest.warns(GradgeoWarning, match=CHANGED) as caught:
        judge(fitted)
    assert len(caught) == 1
    fitted.predict(X[:2])  # warnings are errors here


def test_weights_that_were_put_back_and_changed_again_are_said_again(fitted: Detector) -> None:
    before = copy.deepcopy(fitted.model.state_dict())
    for _ in range(2):
        train(fitted.model)
        with pytest.warns(GradgeoWarning, match=CHANGED):
            fitted.predict(X[:2])
        fitted.model.load_state_dict(before)
        fitted.predict(X[:2])


def test_a_hooked_model_which_no_cache_can_watch_is_watched(fitted: Detector) -> None:
    handle = fitted.model.register_forward_hook(lambda *_: None)
    fitted.predict(X[:2])
    train(fitted.model)
    with pytest.warns(GradgeoWarning, match=CHANGED):
        fitted.predict(X[:2])
    fitted.predict(X[:2])
    handle.remove()


def test_weights_are_hashed_at_the_first_call_alone(fitted: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, weights_hash = [], fingerprint.weights_hash
    monkeypatch.setattr(fingerprint, "weights_hash", lambda model: hashed.append(1) or weights_hash(model))
    for _ in range(5):
        fitted.predict(X[:2])
    others = [Detector(network(seed=seed), evidence="fast", alpha=0.1).fit(X) for seed in range(1, 7)]
    hashed.clear()
    for _ in range(2):  # more models than classifiers are kept
        for detector in others:
            detector.predict(X[:2])
    assert len(hashed) == len(others)


def test_a_file_is_bound_to_the_weights_of_fit(fitted: Detector, tmp_path: Path) -> None:
    train(fitted.model)
    with pytest.warns(GradgeoWarning, match=CHANGED):
        fitted.save(tmp_path / "d.gradgeo")
    with pytest.raises(DetectorFileError, match="another model: its weights differ"):
        Detector.load(tmp_path / "d.gradgeo", fitted.model)
    Detector.load(tmp_path / "d.gradgeo", network()).predict(X[:2])
    with pytest.warns(GradgeoWarning, match="another model") as caught:
        Detector.load(tmp_path / "d.gradgeo", fitted.model, strict=False).predict(X[:2])
    assert len(caught) == 1


class Picky(nn.Module):
    """Takes nothing but what is not negative and not all zero."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not bool((x.flatten(1).sum(1) > 10).all()):
            raise ValueError("no input of mine")
        return self.net(x - 5)


def test_a_model_that_refuses_the_probes_can_be_saved_and_loaded(tmp_path: Path) -> None:
    detector = Detector(Picky(), evidence=["confidence", "csm"], alpha=0.1).fit(X + 5)
    detector.save(tmp_path / "d.gradgeo")
    again = Detector.load(tmp_path / "d.gradgeo", Picky())
    assert torch.equal(again.p_value(X[:4] + 5), detector.p_value(X[:4] + 5))


def test_many_threads_hear_of_it_once(fitted: Detector) -> None:
    train(fitted.model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=fitted.predict, args=(X[:2],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [CHANGED in str(w.message) for w in caught] == [True]


@pytest.mark.parametrize("evidence", ["full", "paper"])
def test_detector_and_guard_are_pickled(evidence: str) -> None:
    detector = Detector(network(), alpha=0.1, evidence=evidence).fit(X)
    again, guarded = pickle.loads(pickle.dumps((detector, gradgeo.guard(detector.model, detector))))
    assert torch.equal(again.p_value(X[:8]), detector.p_value(X[:8]))
    assert torch.equal(guarded(X[:8]).p_value, again.p_value(X[:8]))
    assert again.digest() == detector.digest()
    train(again.model)
    with pytest.warns(GradgeoWarning, match=CHANGED):
        again.predict(X[:2])


def judged(detector: Detector, x: torch.Tensor) -> list[float]:
    """What another process finds."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    return detector.p_value(x).tolist()


@pytest.mark.process
def test_a_spawned_process_judges_alike(fitted: Detector) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(judged, (fitted, X[:8])).get(timeout=60)
    assert found == fitted.p_value(X[:8]).tolist()
