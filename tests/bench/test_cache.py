"""Cached results depend on all the code that computes them."""

from collections.abc import Callable
from pathlib import Path

import pytest

import gradgeo
from gradgeo.bench import cache
from gradgeo.bench.cache import DETECTOR_CODE, GEOMETRY_CODE, hash_of_code
from gradgeo.bench.methods import METHODS, PEER_CODE

PACKAGE = Path(gradgeo.__file__).parent


def files(*packages: str) -> list[Path]:
    return [file.relative_to(PACKAGE) for package in packages for file in (PACKAGE / package).rglob("*.py")]


CASES = {
    "statistics": (GEOMETRY_CODE, files("classifier", "geometry")),
    "detectors": (DETECTOR_CODE, [*files("classifier", "geometry", "detector"), Path("bench/shared_passes.py")]),
    "peers": (PEER_CODE, [*files("classifier"), Path("bench/methods.py"), Path("bench/penultimate.py")]),
}


@pytest.mark.simulation
@pytest.mark.parametrize("name", CASES)
def test_a_change_of_any_file_changes_the_key(name: str, tmp_path: Path) -> None:
    patterns, sources = CASES[name]
    copy = tmp_path / "gradgeo"
    for source in files(
        "classifier", "geometry", "detector", "bench"
    ):  # their names, and of each a line that is parsed soon
        (copy / source).parent.mkdir(parents=True, exist_ok=True)
        (copy / source).write_text(f"NAME = {str(source)!r}\n")
    before = hash_of_code(copy, patterns)
    assert len(sources) > 5
    for source in sources:
        text = (copy / source).read_text()
        (copy / source).write_text(f"{text}\nCHANGED = 1\n")
        assert hash_of_code(copy, patterns) != before, source
        (copy / source).write_text(f"{text}\n# a comment\n")
        assert hash_of_code(copy, patterns) == before, source
        (copy / source).write_text(text)


def test_a_new_file_changes_the_key(tmp_path: Path) -> None:
    (tmp_path / "detector").mkdir()
    before = hash_of_code(tmp_path, DETECTOR_CODE)
    (tmp_path / "detector" / "new.py").write_text("x = 1\n")
    assert hash_of_code(tmp_path, DETECTOR_CODE) != before


@pytest.mark.simulation
def test_ours_and_peers_have_the_keys_of_their_code() -> None:
    assert METHODS["gradgeo"].version == hash_of_code(PACKAGE, DETECTOR_CODE)
    assert hash_of_code(PACKAGE, PEER_CODE) in METHODS["KNN"].version


def test_what_is_stored_is_loaded_and_made_once(tmp_path: Path) -> None:
    calls: list[str] = []

    def make(name: str) -> Callable[[], dict[str, object]]:
        return lambda: {"name": calls.append(name) or len(calls)}

    assert cache.load("a", 1) is None
    assert [int(cache.cached(make("a"), "a", 1)["name"]) for _ in range(2)] == [1, 1]
    assert int(cache.cached(make("b"), "a", 2)["name"]) == 2
    assert calls == ["a", "b"]
