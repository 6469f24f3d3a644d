"""A stochastic model gives the same verdicts beside any number of threads, and nothing of the caller's is drawn."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradgeo
from gradgeo import Detector
from gradgeo.classifier.randomness import SeededDraws
from gradgeo.classifier.wrapper import Classifier

X = torch.rand(60, 3, 2, 2, generator=torch.Generator().manual_seed(0))


class Noisy(nn.Module):
    """Smoothed by noise, with dropout that stays on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(12, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.1 * torch.randn_like(x) + 0.1 * torch.rand(x.shape)
        return self.head(F.dropout(torch.tanh(self.body(x.flatten(1))), 0.2, training=True))


@contextmanager
def another_thread(work: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Beside a thread such as a progress bar's, which goes on with its `work`."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(0.001):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


CALLS: dict[str, Callable[[nn.Module], Tensor]] = {
    "csm": lambda model: gradgeo.csm(model, X[:5], sign=False),
    "maps": lambda model: gradgeo.saliency_maps(model, X[:5], sign=False),
    "logits": lambda model: Classifier(model).logits(X[:5]).logits,
    "zeta": lambda model: gradgeo.zeta(model, X[:2], directions=2),
    "scores": lambda model: Detector(model, alpha=0.2, evidence="paper").fit(X).outlier_score(X[:5]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_another_thread_changes_no_result(call: Callable[[nn.Module], Tensor]) -> None:
    expected = call(Noisy())
    with another_thread():
        found = call(Noisy())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_random_state_stays_beside_another_thread(call: Callable[[nn.Module], Tensor]) -> None:
    model = Noisy()
    with another_thread():
        before = torch.get_rng_state()
        call(model)
        assert torch.equal(torch.get_rng_state(), before)


def test_another_threads_draws_are_those_it_would_have_made_alone() -> None:
    torch.manual_seed(1)
    expected = torch.stack([torch.rand(10) for _ in range(20_000)]).flatten()
    model, drawn = Noisy(), list[Tensor]()
    torch.manual_seed(1)
    with another_thread(lambda: drawn.append(torch.rand(10))):
        for _ in range(20):
            gradgeo.csm(model, X[:5])
    found = torch.cat(drawn)
    assert torch.equal(found, expected[: len(found)])


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(3),
    "randn": lambda x: torch.randn(3, 4),
    "randint": lambda x: torch.randint(9, (5,)),
    "randint from": lambda x: torch.randint(3, 9, (5,)),
    "randperm": lambda x: torch.randperm(9),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "randint_like": lambda x: torch.randint_like(x, 9),
    "randint_like from": lambda x: torch.randint_like(x, 3, 9),
    "bernoulli": torch.bernoulli,
    "normal": lambda x: torch.normal(x, 1.0),
    "in place": lambda x: torch.empty(4).normal_(),
    "multinomial": lambda x: torch.multinomial(x, 2),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "gumbel": F.gumbel_softmax,
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5),
    "distribution": lambda x: torch.distributions.Gamma(x + 1, 1.0).sample(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_are_those_of_a_seeded_global_state_which_stays(draw: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    expected = draw(x)
    before = torch.get_rng_state()
    with SeededDraws() as seeded:
        found = draw(x)
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert seeded.drew


def test_a_generator_of_the_models_own_is_used() -> None:
    own = torch.Generator().manual_seed(7)
    with SeededDraws():
        found = torch.rand(3, generator=own)
    assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_a_model_that_draws_nothing_is_watched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = []
    enter = SeededDraws.__enter__
    monkeypatch.setattr(SeededDraws, "__enter__", lambda self: watched.append(1) or enter(self))
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    for _ in range(3):
        classifier.logits(X)
    assert len(watched) == 1
