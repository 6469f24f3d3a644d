"""The benchmark's tests keep their cache to themselves, time things once and share the digits' task."""

from pathlib import Path

import pytest

from gradgeo.bench import cache, cost
from gradgeo.bench.scenarios import Task
from gradgeo.bench.user_model import digits_task


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cost, "ROUNDS", 1)


@pytest.fixture(scope="session")
def digits() -> Task:
    return digits_task(40)
