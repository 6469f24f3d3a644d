"""How networks are trained here: the weights depend on what stands in this file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    rate: float = 2e-3,
    decay: float = 0.01,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Train by AdamW with cross-entropy, batches of 64, and one cycle of the step size."""
    steps = epochs * -(-len(x) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps, 2))
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            inputs = x[rows] if augment is None else augment(x[rows])
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), y[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def mirrored(x: Tensor) -> Tensor:
    """Images, each flipped left to right by chance."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)


@torch.no_grad()
def accuracy_of(model: nn.Module, x: Tensor, y: Tensor) -> float | None:
    """The share that is right; None where no class is known."""
    known = y >= 0
    if not known.any():
        return None
    predicted = torch.cat([model(part).argmax(1) for part in x[known].split(100)])
    return float((predicted == y[known]).double().mean())


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread, since the order of a sum depends on their number, and a random state of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)
