"""Outputs that are not offered: scores tell an attacker which way to go."""

import numpy as np
import pytest

from gradgeo.errors import ArgumentError
from gradgeo.serve.server import Server
from helpers.serving import SHAPE, LocalPool, infer, request, served

ONE = np.ones((1, *SHAPE))


def test_what_is_not_offered_is_not_answered_listed_or_named() -> None:
    with served(outputs=["trusted", "label"]) as server:
        status, answer = infer(server, ONE)
        assert (status, list(answer)) == (200, ["label", "trusted"])
        assert list(infer(server, ONE, outputs=[{"name": "trusted"}])[1]) == ["trusted"]
        status, told = infer(server, ONE, outputs=[{"name": "outlier_score"}])
        assert (status, told["error"]) == (400, "expected outputs among label, trusted, each once")
        metadata = request(server, "GET", "/v2/models/m")[1]
        assert [output["name"] for output in metadata["outputs"]] == ["label", "trusted"]


@pytest.mark.parametrize("outputs", [[], ["score"], ["trusted", "Label"]])
def test_outputs_are_checked(outputs: list[str]) -> None:
    with pytest.raises(ArgumentError, match="expected outputs to be among logits, label"):
        Server(LocalPool(), name="m", outputs=outputs)
