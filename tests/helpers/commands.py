"""The command line, called within the test, and a classifier for it."""

from typer.testing import CliRunner

from gradgeo import cli

NET = """
import torch
from torch import nn
from gradgeo.data import digits

def net():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = digits.split()["train"]
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([x[y == c].mean(0).flatten() for c in range(10)]) * 4)
        model[1].bias.copy_(-model[1].weight.square().sum(1) / 8)
    return model
"""


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr
