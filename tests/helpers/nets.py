"""Small classifiers and inputs for them: always the same ones, drawn from seeds of their own."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


def network(
    classes: int = 4,
    inputs: int = 12,
    width: int = 32,
    *,
    activation: type[nn.Module] = nn.Tanh,
    seed: int = 0,
) -> nn.Module:
    """One hidden layer over flattened inputs of `inputs` entries; untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), activation(), nn.Linear(width, classes))


def inputs(n: int, seed: int = 1, shape: tuple[int, ...] = (3, 2, 2), dtype: torch.dtype = torch.float32) -> Tensor:
    """(n, *shape), uniform between 0 and 1."""
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pooled(classes: int = 2, channels: int = 3, size: int = 32) -> nn.Module:
    """The plain network of many tutorials, convolutions, BatchNorm, ReLU and max pooling, in eval mode; untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(16), nn.MaxPool2d(2)]
        model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear((size // 4) ** 2 * 16, classes))
        for _ in range(8):  # statistics of noise
            model(torch.rand(16, channels, size, size))
    return model.eval()


class Recurrent(nn.Module):
    """An LSTM over sequences (N, length, 3) and a linear layer of its last state; untrained."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Pairs(Dataset[tuple[Tensor, int]]):
    """A map-style data set of inputs and integer labels."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], int(self.y[i])


class OneByOne(torch.autograd.Function):
    """The identity, whose backward pass reads a value out: it cannot be done for several cotangents at once.

    It also doubles gradients, so that a pass that goes around it shows.
    """

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, above: Tensor) -> Tensor:
        return above * (2.0 if float(above.abs().max()) > 0 else 1.0)
