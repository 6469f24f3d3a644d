"""What the soak sends is what it says, and what it should not get is counted."""

import json

import numpy as np
import pytest

from benchmarks.soak.requests import HOSTILE, KINDS, filled
from benchmarks.soak.server import Soak


@pytest.mark.parametrize(("item", "length"), [(b"0", 1 << 10), (b"[]", 1 << 10), (b"0", (1 << 10) + 1)])
def test_json_of_just_so_many_bytes(item: bytes, length: int) -> None:
    body = filled(item, length)
    assert len(body) == length
    assert set(map(str, json.loads(body)["inputs"][0]["data"])) == {str(json.loads(item))}


def test_each_kind_has_a_body_and_words_that_name_it() -> None:
    x = np.zeros((17, 1, 8, 8), np.float32)
    for name, kind in KINDS.items():
        body, headers = kind.body(x)
        assert body, name
        assert all(isinstance(value, str) for value in headers.values()), name
    assert not set(KINDS) & set(HOSTILE)


def test_answers_that_should_not_have_been_are_told() -> None:
    soak = Soak()
    soak.statuses.update({("one input", 200): 5, ("one input", 0): 1, ("no JSON", 400): 2})
    soak.hostile.update({("no HTTP", 400): 3, ("two lengths", 200): 1})
    assert soak.unexpected == {"one input: 0": 1, "two lengths: 200": 1}
