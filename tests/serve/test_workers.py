"""Batches behind worker processes that die, hang, fail and cannot start."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradgeo.serve.batching import Batcher
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.limits import Limits
from gradgeo.serve.workers import InferenceError, Pool, StartError, WorkerLostError
from helpers.judging import KNOWN, SHAPE, Loads, judge
from helpers.serving import LocalPool, infer, served

ONE = np.ones((1, *SHAPE))


@pytest.mark.process
def test_the_life_of_a_pool(tmp_path: Path) -> None:
    """One pool for all of it, for each process takes a while to start."""
    asyncio.run(_life(tmp_path))


async def _life(folder: Path) -> None:
    pool = Pool(Loads(folder), timeout=3.0)
    assert pool.alive == 0
    assert await pool.start() == KNOWN
    assert pool.alive == 1
    (first,) = pool.pids
    assert first != os.getpid()
    columns = await pool(ONE, True)
    assert columns["label"][0] == first
    assert columns["cause"] == [""]

    for number in (signal.SIGTERM, signal.SIGINT):  # the parent's business
        os.kill(first, number)
    with pytest.raises(InferenceError, match=r"the model or the detector failed \(ValueError\)"):
        await pool(ONE * 13, False)
    assert pool.pids == [first]

    with pytest.raises(WorkerLostError, match="a worker was lost: the process ended with exit code -9"):
        await pool(ONE * 7, False)
    assert pool.alive == 0
    assert (await pool(ONE, False))["label"][0] not in (first, os.getpid())  # waits for the next one
    assert (pool.restarts, pool.alive) == (1, 1)

    hanging = asyncio.create_task(pool(ONE * 9, False))
    await asyncio.sleep(0.2)
    hanging.cancel()  # as where nobody waits any more
    await asyncio.wait([hanging])
    assert pool.alive == 0
    assert (await pool(ONE, False))["label"][0] != first
    assert pool.restarts == 2

    (folder / "broken").touch()
    with pytest.raises(WorkerLostError, match="no answer within 3 s"):
        await pool(ONE * 9, False)
    waiting = asyncio.create_task(pool(ONE, False))
    async with asyncio.timeout(60):
        while not pool.failing:
            await asyncio.sleep(0.05)
    assert not waiting.done()
    (folder / "broken").unlink()
    assert (await waiting)["p_value"][0] == 1.0
    assert not pool.failing
    (last,) = pool.pids
    await pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


@pytest.mark.process
def test_a_pool_that_cannot_load_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(StartError, match="FileNotFoundError: weights are gone"):
        asyncio.run(Pool(Loads(tmp_path)).start())


Run = Callable[[np.ndarray, bool], Awaitable[dict[str, Any]]]


async def _submitted(run: Run, values: list[float]) -> list[Any]:
    batcher = Batcher(run, Limits(delay=0.01))
    batcher.start()
    answers = await asyncio.gather(*(batcher.submit(ONE * v, False) for v in values), return_exceptions=True)
    await batcher.close()
    return answers


def test_a_worker_that_dies_costs_its_batch_nothing() -> None:
    lost = []

    async def run(x: np.ndarray, explain: bool) -> dict[str, Any]:
        if not lost:
            lost.append(len(x))
            raise WorkerLostError("once")
        return judge(x, explain)

    answers = asyncio.run(_submitted(run, [0.5, 1.0, 0.2]))
    assert lost == [3]
    assert [a["logits"][0, 0] for a in answers] == pytest.approx([3.0, 6.0, 1.2])


def test_a_request_that_kills_its_worker_is_refused_and_the_others_are_not() -> None:
    async def run(x: np.ndarray, explain: bool) -> dict[str, Any]:
        if (x == 7).any():
            raise WorkerLostError("dead")
        return judge(x, explain)

    good, bad, fine = asyncio.run(_submitted(run, [0.5, 7.0, 1.0]))
    assert isinstance(bad, ProtocolError)
    assert (bad.status, bad.message) == (503, "the worker was lost twice while it judged these inputs")
    assert good["logits"][0, 0] == 3.0
    assert fine["logits"][0, 0] == 6.0
    (alone,) = asyncio.run(_submitted(run, [7.0]))
    assert alone.status == 503


def test_a_fault_of_ours_ends_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    async def run(x: np.ndarray, explain: bool) -> dict[str, Any]:
        if (x == 5).any():
            raise KeyError("secret")
        return judge(x, explain)

    def uncountable(columns: dict[str, Any]) -> None:
        raise ValueError("no metric of this")

    async def thrice() -> list[Any]:
        batcher = Batcher(run, Limits(delay=0), on_batch=uncountable)
        batcher.start()
        found = [await asyncio.gather(batcher.submit(ONE * v, False), return_exceptions=True) for v in (5, 1, 1)]
        await batcher.close()
        return [answers[0] for answers in found]

    bad, good, next_one = asyncio.run(thrice())
    assert (bad.status, bad.message) == (500, "the batch could not be judged")
    assert good["logits"][0, 0] == next_one["logits"][0, 0] == 6.0
    assert {"batch failed", "batch not counted"} <= {record.message for record in caplog.records}


def test_work_that_nobody_waits_for_is_ended_but_not_at_once() -> None:
    """A new start of a worker costs more than an ordinary batch, so it has half of the time limit to finish."""
    ended: list[float] = []

    async def hanging() -> Any:
        loop = asyncio.get_running_loop()

        async def run(x: np.ndarray, explain: bool) -> dict[str, Any]:
            began = loop.time()
            try:
                await asyncio.sleep(0 if (x == 1).all() else 60)
            except asyncio.CancelledError:
                ended.append(loop.time() - began)
                raise
            return judge(x, explain)

        batcher = Batcher(run, Limits(delay=0, timeout=0.6))
        batcher.start()
        late = await asyncio.gather(batcher.submit(ONE * 9, False), return_exceptions=True)
        good = [await batcher.submit(ONE, False)]
        gone = asyncio.create_task(batcher.submit(ONE * 9, False))
        await asyncio.sleep(0.05)
        gone.cancel()  # the client has gone
        await asyncio.sleep(0.1)
        at_once = len(ended)
        good.append(await batcher.submit(ONE, False))
        await batcher.close()
        return late[0].status, at_once, [answer["logits"][0, 0] for answer in good]

    assert asyncio.run(hanging()) == (504, 1, [6.0, 6.0])
    assert ended[0] == pytest.approx(0.6, abs=0.25)
    assert ended[1] == pytest.approx(0.3, abs=0.25)


def test_explanations_do_not_share_a_batch_with_those_who_want_none() -> None:
    pool = LocalPool()

    async def mixed() -> list[Any]:
        batcher = Batcher(pool, Limits(delay=0.05))
        batcher.start()
        answers = await asyncio.gather(*(batcher.submit(ONE, explain) for explain in (False, False, True, True, False)))
        await batcher.close()
        return answers

    answers = asyncio.run(mixed())
    assert ["cause" in answer for answer in answers] == [False, False, True, True, False]
    assert pool.batches == [2, 2, 1]


def test_two_workers_run_at_the_same_time() -> None:
    inside = []

    async def run(x: np.ndarray, explain: bool) -> dict[str, Any]:
        inside.append(len(x))
        while len(inside) < 2:
            await asyncio.sleep(0.001)
        return judge(x, explain)

    async def both() -> None:
        batcher = Batcher(run, Limits(delay=0, batch=1), workers=2)
        batcher.start()
        async with asyncio.timeout(10):
            await asyncio.gather(*(batcher.submit(ONE, False) for _ in range(2)))
        await batcher.close()

    asyncio.run(both())
    assert inside == [1, 1]


def test_what_waits_when_the_batcher_closes_is_refused() -> None:
    async def closing() -> list[Any]:
        async def never(x: np.ndarray, explain: bool) -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        batcher = Batcher(never, Limits(delay=0, batch=1))
        batcher.start()
        tasks = [asyncio.create_task(batcher.submit(ONE, False)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await batcher.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [(error.status, error.message) for error in asyncio.run(closing())] == [
        (503, "the server is going down")
    ] * 3


def test_limits_are_checked() -> None:
    for wrong in ({"rows": 0}, {"rows": 1.5}, {"queue": True}, {"delay": -1}, {"timeout": float("inf")}, {"body": -1}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"expected {name} to be"):
            Limits(**wrong)
    assert Limits(rows=2).body_bytes(100) == 1600 + (1 << 20)
    assert Limits(body=10).bodies_bytes(100) == 1 << 28


def test_a_server_over_lost_workers_answers_all() -> None:
    class Fragile(LocalPool):
        async def __call__(self, x: np.ndarray, explain: bool) -> dict[str, Any]:
            columns = await super().__call__(x, explain)
            if len(self.batches) % 3 == 1:
                raise WorkerLostError("now and then")
            return columns

    with served(Fragile(), Limits(delay=0)) as server:
        assert [infer(server, ONE)[0] for _ in range(6)] == [200] * 6
