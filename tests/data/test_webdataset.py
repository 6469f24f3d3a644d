import io
import json
import pickle
import tarfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradgeo.data import ReadableItems, Stream, open_source
from gradgeo.data.webdataset import Shards
from gradgeo.errors import ArgumentError, DataError

Members = list[tuple[str, bytes]]


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tar(path: Path, members: Members, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


def samples(first: int, count: int) -> Members:
    numbers = range(first, first + count)
    return [pair for i in numbers for pair in ((f"d/{i:03}.png", png(i)), (f"d/{i:03}.cls", str(i % 3).encode()))]


def grey(source: Stream) -> list[int | None]:
    return [None if item.x is None else round(float(item.x[0, 0, 0] * 255)) for item in source]


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz")])
def test_samples_of_several_shards(tmp_path: Path, ending: str, mode: str) -> None:
    for shard in range(3):
        tar(tmp_path / f"a-{shard:02}.{ending}", samples(10 * shard, 10), mode)
    for spec in (f"{tmp_path}/a-{{00..02}}.{ending}", f"{tmp_path}/a-*.{ending}", str(tmp_path)):
        source = open_source(spec)
        assert isinstance(source, Stream)
        assert source.size is None
        assert source.labelled
        items = list(source)
        assert [item.index for item in items] == list(range(30))
        assert [item.name for item in items] == [f"d/{i:03}" for i in range(30)]
        assert [item.label for item in items] == [i % 3 for i in range(30)]
        assert grey(source) == list(range(30))
        assert source.count() == 30


def test_parts_of_a_stream(tmp_path: Path) -> None:
    for shard in range(3):
        tar(tmp_path / f"{shard}.tar", samples(10 * shard, 10))
    source = open_source(tmp_path, start=3, limit=20)
    assert [item.index for item in source] == list(range(3, 23))
    assert source.count() == 20
    assert [source[i].index for i in (12, 0, 19)] == [15, 3, 22]
    for beyond in (20, -1):
        with pytest.raises(IndexError, match="is not in the data"):
            source[beyond]
    parts = [range(2, 7), range(10, 15), range(18, 99), range(99, 200)]
    batches = list(source.batches(3, workers=2, parts=parts))
    assert [[item.index - 3 for item in batch] for batch in batches] == [
        [2, 3, 4], [5, 6], [10, 11, 12], [13, 14], [18, 19]
    ]  # fmt: skip
    assert all(round(float(item.x[0, 0, 0] * 255)) == item.index for batch in batches for item in batch)


def test_a_detector_can_be_fitted_on_shards(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", samples(0, 9))
    items = ReadableItems(open_source(tmp_path / "a.tar"), batch_size=4)
    for _ in range(2):
        assert [len(x) for x, _ in items.loader()] == [4, 4, 1]
        assert items.items == 9


def test_what_a_sample_may_hold(tmp_path: Path) -> None:
    class Deadly:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    deadly = pickle.dumps(Deadly())
    objects = npy(np.array([Deadly()], dtype=object))
    members = [
        ("a.mask.png", png(9)),
        ("a.png", png(1)),
        ("a.cls", b" 2\n"),
        ("b.npy", npy(np.full((1, 4, 4), 2.0))),
        ("b.json", json.dumps({"label": 1}).encode()),
        ("c.pyd", deadly),
        ("d.pickle", deadly),
        ("e.npy", objects),
        ("f.txt", b"text"),
        ("g.png", png(7)[:30]),
        ("g.cls", b"three"),
        ("h.PNG", png(8)),
        ("h.json", b"[" * 100_000),
        ("i.png", b""),
        ("k.v1.png", png(3)),
        (".hidden.png", png(3)),
    ]
    items = list(open_source(tar(tmp_path / "a.tar", members)))
    assert [item.name for item in items] == list("abcdefghik")
    assert [item.label for item in items] == [2, 1, *[None] * 8]
    assert torch.equal(items[0].x, torch.full((1, 4, 4), 1 / 255))
    assert torch.equal(items[1].x, torch.full((1, 4, 4), 2.0))
    errors = {item.name: item.error for item in items if item.error}
    assert "pickles execute code when they are read; refused" in errors["c"]
    assert "pickles execute code" in errors["d"]
    assert "Object arrays cannot be loaded" in errors["e"]
    assert errors["f"] == "no image and no .npy among txt"
    assert errors["g"].startswith("not an image")
    assert errors["i"] == "empty (0 bytes)"
    assert not (tmp_path / "executed").exists()


def test_links_and_paths_in_a_shard_are_names(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for kind, name in ((tarfile.SYMTYPE, "a.png"), (tarfile.LNKTYPE, "b.png"), (tarfile.FIFOTYPE, "c.png")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, str(tmp_path / "secret.png")
            file.addfile(entry)
        entry = tarfile.TarInfo("../../up.png")
        entry.size = len(png(1))
        file.addfile(entry, io.BytesIO(png(1)))
    [item] = open_source(tmp_path / "a.tar")
    assert item.name == "../../up"
    assert item.error is None


def broken(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "cut short":
        path.write_bytes(data[:3000])
    elif kind == "broken header":
        path.write_bytes(data[:6144] + b"\xff" * 512 + data[6656:])
    elif kind == "no tar":
        path.write_bytes(b"plain text" * 100)
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("kind", ["cut short", "broken header", "no tar", "empty"])
@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz")])
def test_a_broken_shard_is_an_item_and_the_others_are_read(tmp_path: Path, kind: str, ending: str, mode: str) -> None:
    for shard in range(3):
        tar(
            tmp_path / f"{shard}.{ending}",
            [(f"{shard}{i}.npy", npy(np.random.RandomState(i).rand(99))) for i in range(10)],
            mode,
        )
    broken(tmp_path / f"1.{ending}", kind)
    source = open_source(tmp_path)
    items = list(source)
    [error] = [item for item in items if item.name == f"1.{ending}"]
    assert "the shard cannot be read on from here" in error.error
    assert [item.name for item in items if item.name[0] != "1"] == [f"{s}{i}" for s in (0, 2) for i in range(10)]
    assert source.count() == Shards([tmp_path / f"{i}.{ending}" for i in range(3)]).count() == len(items)
    for skip in (5, len(items) - 12, len(items) - 3):  # passing over is counting the same
        rest = open_source(tmp_path, start=skip)
        assert [item.name for item in rest] == [item.name for item in items[skip:]]


def test_times(tmp_path: Path) -> None:
    about = [{"t": f"2024-05-0{i}T00:00:00"} for i in range(1, 4)] + [{}, {"t": "soon"}]
    members = [
        pair for i, a in enumerate(about) for pair in ((f"{i}.png", png(i)), (f"{i}.json", json.dumps(a).encode()))
    ]
    source = open_source(tar(tmp_path / "a.tar", members), time="t")
    assert source.is_datetime
    assert [item.time for item in source] == [*(datetime(2024, 5, day) for day in (1, 2, 3)), None, None]
    with pytest.raises(DataError, match="the first sample, 0, has no time"):
        open_source(tmp_path / "a.tar", time="when")


def test_a_member_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradgeo.data.limits.LARGEST_ITEM", 50)
    [item] = open_source(tar(tmp_path / "a.tar", [("a.png", png(1))]))
    assert item.error == f"a.png has {len(png(1))} bytes; at most 50 are read"


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no samples in .*a\.tar"):
        open_source(tar(tmp_path / "a.tar", []))
    with pytest.raises(ArgumentError, match="expected streaming to be False for data other than hf:"):
        open_source(tmp_path / "a.tar", streaming=True)
