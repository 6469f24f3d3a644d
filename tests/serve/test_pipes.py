"""Between processes arrays are written as they lie, and what long JSON stands before never goes to who parses it."""

import asyncio
import json
import multiprocessing
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from gradgeo.serve import parsing, pipes
from gradgeo.serve.batching import Batcher
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.limits import Limits
from gradgeo.serve.parsing import LONG_JSON, Parser, Reader
from gradgeo.serve.protocol import OUTPUTS, Detail
from helpers.serving import ReadsHere

SHAPE, ROWS = (3, 64, 64), 32
MIB = 1 << 20


def through(value: Any) -> Any:
    """What arrives at the other end of a pipe."""
    near, far = multiprocessing.Pipe()
    with near, far:
        writing = threading.Thread(target=pipes.send, args=(near, value))
        writing.start()
        arrived = pipes.receive(far)
        writing.join()
    return arrived


def test_arrays_arrive_as_they_were_and_can_be_written_to() -> None:
    x = np.random.default_rng(0).uniform(size=(4, 3, 16, 16))
    texts = np.array(["a", "grün"], object)
    answer, (same, turned, empty, words, none) = through(("answer", (x, x[:, ::2].T, x[:0], texts, None)))
    assert (answer, none, words.tolist()) == ("answer", None, texts.tolist())
    for arrived, sent in ((same, x), (turned, x[:, ::2].T), (empty, x[:0])):
        np.testing.assert_array_equal(arrived, sent)
        assert arrived.dtype == sent.dtype
    same[:] = 0  # torch.from_numpy warns of arrays that are read-only
    assert through(None) is None


def test_large_arrays_are_not_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """To pickle them copies them with the interpreter lock held."""
    pickled, dumps = [], pickle.dumps
    monkeypatch.setattr(pickle, "dumps", lambda *a, **k: pickled.append(dumps(*a, **k)) or pickled[-1])
    x = np.ones((64, *SHAPE), np.float32)
    assert through((x, 1))[0].shape == x.shape
    assert len(pickled[0]) < 1000


def long_request(x: np.ndarray, size: int) -> tuple[bytes, str]:
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP64", "parameters": {"binary_data_size": size}}
    text = json.dumps({"id": "7", "inputs": [tensor]}).encode() + b" " * LONG_JSON
    return text + x.tobytes(), str(len(text))


def test_only_the_json_goes_to_the_process_that_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []

    class Watched(ReadsHere):
        async def __call__(self, job: Any) -> Any:
            jobs.append(job)
            answer = await super().__call__(job)
            assert len(pickle.dumps(answer)) < 1000
            return answer

    monkeypatch.setattr(parsing, "Pool", Watched)
    parse = Parser(Reader(SHAPE, np.dtype(np.float32), ROWS, tuple(OUTPUTS)), 30.0)
    x = np.random.default_rng(0).uniform(size=(ROWS, *SHAPE))
    body, length = long_request(x, x.nbytes)
    assert len(body) > 3 * MIB
    request = asyncio.run(parse(bytearray(body), length))
    assert (request.id, request.x.dtype) == ("7", np.float32)
    np.testing.assert_array_equal(request.x, x.astype(np.float32))
    assert len(pickle.dumps(jobs)) < 2 * LONG_JSON
    with pytest.raises(ProtocolError, match=f"the bytes behind the JSON to be {x[:1].nbytes}"):
        asyncio.run(parse(*long_request(x[:1], x.nbytes)))


def test_requests_that_are_joined_in_another_thread_keep_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradgeo.serve.batching.LARGE", 1)

    async def run(x: np.ndarray, detail: Detail) -> dict[str, Any]:
        return {"label": x[:, 0], "p_value": x[:, 0]}

    async def asked() -> list[dict[str, Any]]:
        batcher = Batcher(run, Limits(delay=0.01))
        batcher.start()
        answers = await asyncio.gather(*(batcher.submit(np.full((2, 3), n), Detail.VERDICTS) for n in range(3)))
        await batcher.close()
        return answers

    assert [answer["label"].tolist() for answer in asyncio.run(asked())] == [[0, 0], [1, 1], [2, 2]]
