"""Data at an address, by fsspec's file system in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradgeo.data import open_source
from gradgeo.errors import DataError

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    return system


def test_a_file_is_fetched_once_and_again_when_it_changed(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/bucket/a.csv", b"a,b,label\n1,2,0\n3,4,1\n")
    calls: list[str] = []
    get = type(memory).get_file
    monkeypatch.setattr(
        type(memory), "get_file", lambda self, path, *rest: (calls.append(path), get(self, path, *rest))
    )
    for _ in range(2):
        source = open_source("memory://bucket/a.csv")
        assert source.spec == "memory://bucket/a.csv"
        assert [item.x.tolist() for item in source] == [[1, 2], [3, 4]]
    assert len(calls) == 1
    memory.pipe_file("/bucket/a.csv", b"a,b,label\n5,6,0\n")
    assert [item.x.tolist() for item in open_source("memory://bucket/a.csv")] == [[5, 6]]


def test_folders_and_patterns(memory: Any) -> None:
    pillow = pytest.importorskip("PIL.Image")
    from io import BytesIO

    for name in ("ok/a.png", "ok/b.png", "defect/a.png"):
        stream = BytesIO()
        pillow.fromarray(np.zeros((2, 2), np.uint8)).save(stream, "PNG")
        memory.pipe_file(f"/bucket/parts/{name}", stream.getvalue())
    source = open_source("memory://bucket/parts")
    assert source.classes == ("defect", "ok")
    assert [(item.name, item.label) for item in source] == [("defect/a.png", 0), ("ok/a.png", 1), ("ok/b.png", 1)]
    assert len(list(open_source("memory://bucket/parts/*/a.png"))) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memory://bucket/nothing.csv", "cannot be read: FileNotFoundError"),
        ("memory://bucket/*.csv", "names 0 files"),
        ("nosuch://bucket/a.csv", "cannot be read: ValueError: Protocol not known: nosuch"),
    ],
)
def test_what_is_not_there(memory: Any, spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(spec)
