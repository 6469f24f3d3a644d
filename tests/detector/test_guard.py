"""A guarded model: logits and verdicts of one pass, wherever the model itself would run."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.detector.guard import Answer, Guarded, UntrustedError, guard
from gradgeo.errors import ArgumentError, GradgeoWarning, NotFittedError, UnusableInputWarning


class Net(nn.Module):
    """A convolution, batch normalisation and dropout, so that modes differ."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(4 * 36, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture(scope="module")
def trusted() -> Tensor:
    return torch.rand(240, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def fitted(trusted: Tensor) -> gradgeo.Detector:
    torch.manual_seed(0)
    return gradgeo.Detector(Net().eval(), evidence="fast").fit(trusted)


@pytest.fixture
def detector(fitted: gradgeo.Detector) -> gradgeo.Detector:
    return copy.deepcopy(fitted)


@pytest.fixture
def mixed(trusted: Tensor) -> Tensor:
    """Trusted inputs, and in rows 2 and 5 what is not."""
    x = trusted[:6].clone()
    x[2] = 40.0
    x[5, 0, 0, 0] = torch.nan
    return x


def untrusted(x: Tensor, detector: gradgeo.Detector) -> list[int]:
    with pytest.warns(UnusableInputWarning, match="1 of 6"):
        return torch.nonzero(~detector.predict(x).trusted)[:, 0].tolist()


def test_logits_are_the_models_and_verdicts_the_detectors(detector: gradgeo.Detector, trusted: Tensor) -> None:
    answer = guard(detector.model, detector)(trusted)
    logits, verdict = answer.logits, answer.verdict
    with torch.no_grad():
        torch.testing.assert_close(logits, detector.model(trusted), rtol=1e-4, atol=1e-5)
    expected = detector.predict(trusted)
    for name, column in vars(verdict).items():
        assert torch.equal(column, getattr(expected, name)), name
    assert not logits.requires_grad
    assert all(isinstance(part, Tensor) for part in answer)  # Lightning refuses frozen dataclasses in what it is given


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_runs_in_every_grad_mode(detector: gradgeo.Detector, trusted: Tensor, context: type) -> None:
    guarded = guard(detector.model, detector)
    before = guarded(trusted[:8])
    with context():
        mode = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        x = trusted[:8] * 1.0  # in inference mode an inference tensor
        assert x.is_inference() == (context is torch.inference_mode)
        inside = guarded(x)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode
    outside = guarded(x)  # an inference tensor outside of inference mode
    for answer in (inside, outside):
        assert torch.equal(answer.logits, before.logits)
        assert torch.equal(answer.p_value, before.p_value)


def test_a_model_made_in_inference_mode_can_be_guarded(trusted: Tensor) -> None:
    with torch.inference_mode():
        model = Net().eval()
        x = trusted * 1.0
        detector = gradgeo.Detector(model, evidence="fast").fit(x)
        assert guard(model, detector)(x[:4]).trusted.shape == (4,)


def test_one_forward_pass_fewer_than_model_and_detector(detector: gradgeo.Detector, trusted: Tensor) -> None:
    """The logits come out of the detector's own pass: the caller's model is not run."""
    guarded = guard(detector.model, detector)
    ran = []
    handle = detector.model.register_forward_pre_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        detector.predict(trusted[:4])
        alone = len(ran)
        assert alone > 0
        guarded(trusted[:4])
    handle.remove()
    assert len(ran) == 2 * alone


def test_lightning_style_prediction(detector: gradgeo.Detector, trusted: Tensor) -> None:
    """`Trainer.predict` calls `predict_step` in eval mode under inference mode and keeps what it returns."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.guarded = guard(detector.model, detector)

        def predict_step(self, batch: list[Tensor], batch_idx: int) -> Answer:
            return self.guarded(batch[0])

    module, loader = Module(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(trusted[:20]), batch_size=8)
    module.eval()
    with torch.inference_mode():
        kept = [module.predict_step(batch, i) for i, batch in enumerate(loader)]
    together = torch.cat([answer.p_value for answer in kept])
    assert (together - detector.p_value(trusted[:20])).abs().median() < 1e-6


def test_flag(detector: gradgeo.Detector, mixed: Tensor) -> None:
    with pytest.warns(UnusableInputWarning, match="1 of 6"):
        answer = guard(detector.model, detector)(mixed)
    assert not answer.trusted[[2, 5]].any()
    assert answer.logits[5].isnan().all()
    assert answer.label[5] == -1
    assert answer.logits[:5].isfinite().all()


def test_raise(detector: gradgeo.Detector, mixed: Tensor) -> None:
    guarded = guard(detector.model, detector, on_untrusted="raise")
    bad = untrusted(mixed, detector)
    with (
        pytest.warns(UnusableInputWarning, match="1 of 6"),
        pytest.raises(
            UntrustedError, match=rf"{len(bad)} of 6 predictions are not trusted; the first, row {bad[0]}, has p"
        ) as raised,
    ):
        guarded(mixed)
    assert raised.value.answer.logits.shape == (6, 5)
    good = [i for i in range(6) if i not in bad]
    assert guarded(mixed[good]).trusted.all()
    with pytest.warns(UnusableInputWarning), pytest.raises(UntrustedError, match="the first, row 0, cannot be judged"):
        guarded(mixed[5:])


def test_callback(detector: gradgeo.Detector, mixed: Tensor) -> None:
    called = []

    def abstain(answer: Answer, rows: Tensor) -> Answer | None:
        called.append(rows.tolist())
        return answer._replace(logits=answer.logits.index_fill(0, rows, 0.0))

    guarded = guard(detector.model, detector, on_untrusted=abstain)
    bad = untrusted(mixed, detector)
    with pytest.warns(UnusableInputWarning, match="1 of 6"):
        answer = guarded(mixed)
    assert called == [bad]
    assert (answer.logits[bad] == 0).all()
    assert "on_untrusted=abstain" in repr(guarded)

    silent = guard(detector.model, detector, on_untrusted=lambda answer, rows: called.append(len(rows)))
    with pytest.warns(UnusableInputWarning, match="1 of 6"):
        assert silent(mixed).logits.shape == (6, 5)
    good = [i for i in range(6) if i not in bad]
    silent(mixed[good])
    assert called[1:] == [len(bad)]


def test_modes_change_no_verdict_and_no_random_state(detector: gradgeo.Detector, trusted: Tensor) -> None:
    model = detector.model
    guarded = guard(model, detector)
    assert not guarded.training
    before, state = guarded(trusted[:8]), torch.get_rng_state()
    guarded.train()
    assert model.training
    after = guarded(trusted[:8])
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.p_value, after.p_value)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert guard(model, detector).training


def test_state_dict_is_the_models(detector: gradgeo.Detector, trusted: Tensor) -> None:
    guarded = guard(detector.model, detector)
    state = guarded.state_dict()
    assert set(state) == {f"model.{name}" for name in detector.model.state_dict()}
    guarded.load_state_dict(copy.deepcopy(state))  # the same weights: no warning
    with pytest.warns(GradgeoWarning, match="not those the detector was fitted with"):
        guarded.load_state_dict(
            {name: value + 0.1 if value.is_floating_point() else value for name, value in state.items()}
        )


def test_a_copy_judges_by_its_own_model(detector: gradgeo.Detector, trusted: Tensor) -> None:
    guarded = guard(detector.model, detector)
    other = copy.deepcopy(guarded)
    assert other.detector.model is other.model
    assert other.model is not guarded.model
    assert torch.equal(other(trusted[:4]).p_value, guarded(trusted[:4]).p_value)


def test_a_move_takes_the_verdicts_along(detector: gradgeo.Detector, trusted: Tensor) -> None:
    guarded = guard(detector.model, detector)
    before = guarded(trusted[:4])
    guarded.to(torch.float64)
    with pytest.warns(GradgeoWarning, match="not those the detector was fitted with"):  # rounded otherwise
        after = guarded(trusted[:4])
    assert after.logits.dtype == torch.float64
    torch.testing.assert_close(after.logits.float(), before.logits, rtol=1e-4, atol=1e-5)


def test_a_loaded_detector_guards_the_model_it_was_loaded_for(
    detector: gradgeo.Detector, trusted: Tensor, tmp_path: Path
) -> None:
    detector.save(tmp_path / "d.gradgeo")
    again = copy.deepcopy(detector.model)
    loaded = gradgeo.Detector.load(tmp_path / "d.gradgeo", again)
    assert guard(again, loaded)(trusted[:4]).trusted.shape == (4,)
    with pytest.raises(
        ArgumentError, match=r"guard: expected model to be the detector's own model, got a Net.*Detector\.load"
    ):
        guard(detector.model, loaded)


def test_compiled_and_parallel_wrappers_count_as_the_model(detector: gradgeo.Detector) -> None:
    assert isinstance(guard(nn.DataParallel(detector.model), detector), Guarded)


def test_wrong_arguments_are_refused(detector: gradgeo.Detector) -> None:
    model = detector.model
    with pytest.raises(ArgumentError, match=r"guard: expected detector to be a gradgeo\.Detector, got a Net"):
        guard(model, model)
    with pytest.raises(ArgumentError, match=r"guard: expected model to be a torch\.nn\.Module, got a function"):
        guard(lambda x: x, detector)
    with pytest.raises(NotFittedError, match="guard: the detector is not fitted"):
        guard(model, gradgeo.Detector(model))
    with pytest.raises(
        ArgumentError, match=r"guard: expected on_untrusted to be 'flag', 'raise' or a function.*got 'ignore'"
    ):
        guard(model, detector, on_untrusted="ignore")
    with pytest.raises(ArgumentError, match=r"expected x to be of shape \(N, 1, 6, 6\) as in fit"):
        guard(model, detector)(torch.rand(2, 1, 5, 5))
