"""What fuzzing found stays mended, and a little of it runs with every test: seeds with bytes turned, cut and doubled."""

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import TESTS

FOLDER = TESTS / "fuzz"
ALTERED = 60  # alterations of the seeds of each target
NAMES = ("detector", "npy", "npz", "tar", "parquet", "image", "tsv", "moment", "pattern", "request")
LENIENT = ("tar", "tsv", "moment", "pattern")  # what cannot be read is an item with an error, or no moment


@pytest.fixture(scope="module")
def targets() -> Iterator[object]:
    for library in ("PIL", "pyarrow", "fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    sys.path.insert(0, str(FOLDER))
    import targets

    yield targets
    sys.path.remove(str(FOLDER))
    shutil.rmtree(targets.FOLDER, ignore_errors=True)


def altered(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(made) + 1)
        what = rng.randrange(5)
        if what == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif what == 1 and at < len(made):
            made[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == 2:
            del made[at:]
        elif what == 3:
            del made[at : at + rng.randrange(9)]
        else:
            made[at:at] = made[at : at + rng.randrange(9)]
    return bytes(made)


@pytest.mark.parametrize("name", NAMES)
def test_readers_take_what_they_write_and_survive_the_rest(targets: object, name: str) -> None:
    rng, seeds = random.Random(0), targets.TARGETS[name].seeds()
    accepted = [targets.run(name, seed) for seed in seeds]
    assert any(accepted)
    taken = [targets.run(name, altered(rng.choice(seeds), rng)) for _ in range(ALTERED)]
    assert name in LENIENT or not all(taken)


def test_every_target_runs_here(targets: object) -> None:
    assert set(targets.TARGETS) == set(NAMES) == set(targets.MODULES)


@pytest.mark.parametrize("kept", sorted((FOLDER / "kept").iterdir()), ids=lambda path: path.name)
def test_what_once_crashed_does_not(targets: object, kept: Path) -> None:
    targets.run(kept.name.partition("-")[0], kept.read_bytes())
