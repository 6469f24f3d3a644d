"""One fitted detector for the adapters, and inputs of which some are odd."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gradgeo import Detector
from helpers.nets import inputs, network

SHAPE = (3, 4, 4)


@pytest.fixture(scope="package")
def fitted() -> Detector:
    detector = Detector(network(inputs=48).eval(), evidence=["confidence", "csm"]).fit(inputs(120, shape=SHAPE))
    detector.notes = {"class_names": ["ant", "bee", "cat", "dog"], "preprocess": {"size": [4, 4], "channels": 3}}
    return detector


@pytest.fixture
def x() -> Tensor:
    x = inputs(10, seed=5, shape=SHAPE)
    x[6:] *= 40
    return x


def same(found: Any, wanted: Any) -> bool:
    """Whether two verdicts are the same up to the rounding of other batches."""
    close = torch.allclose(torch.as_tensor(found), wanted, atol=0.02, equal_nan=True)
    return close and len(found) == len(wanted)
