"""Train the classifier of the digits and write the weights that the package ships: `python -m benchmarks.digits`.

The weights are the same for every run on one kind of processor and thread count of one; another kind rounds sums
otherwise, and training carries that further. New weights change the figures that the README and the documentation
print: run `make test` after it.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from gradgeo.data.digits import WEIGHTS, network, split

EPOCHS = 20
BATCH = 64


def train(epochs: int = EPOCHS) -> nn.Sequential:
    """The network of `gradgeo.data.digits`, trained on the 700 digits of "train" in a few seconds."""
    x, y = split()["train"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    return net.requires_grad_(False).eval()


def main(out: Path = WEIGHTS) -> None:
    """Write the weights and print how many test digits they get right."""
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    net = train()
    x, y = split()["test"]
    save_file(net.state_dict(), out)
    right = (net(x).argmax(1) == y).float().mean()
    print(f"{out}: {right:.1%} of {len(x)} test digits right")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
