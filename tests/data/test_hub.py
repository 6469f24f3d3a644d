import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gradgeo.data import Stream, open_source
from gradgeo.data.hub import parse
from gradgeo.errors import DataError

datasets = pytest.importorskip("datasets", reason="datasets is not installed; it comes with gradgeo[hub]")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own and no network for each test."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", cache / "downloads")
    monkeypatch.setattr("datasets.config.EXTRACTED_DATASETS_PATH", cache / "downloads" / "extracted")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return cache


def png(value: int, shape: tuple[int, ...] = (4, 4)) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def cell(value: int, path: str | None = None) -> dict[str, object]:
    return {"bytes": png(value), "path": path}


IMAGES = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}


def made(columns: dict[str, list], features: dict | None = None) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)


def images(n: int = 3, offset: int = 0) -> datasets.Dataset:
    return made({"image": [cell(i + offset) for i in range(n)], "label": [i % 2 for i in range(n)]}, IMAGES)


def grey(item: object) -> int:
    return round(float(item.x[0, 0, 0]) * 255)


def in_cache(cache: Path, name: str, config: str, splits: dict[str, datasets.Dataset]) -> None:
    """Leave `splits` as a download of the hub's `name` leaves them."""
    place = cache / name.replace("/", "___") / config / "0.0.0" / "abc"
    place.mkdir(parents=True)
    stem = name.rpartition("/")[2]
    sizes = {}
    for split, data in splits.items():
        with datasets.arrow_writer.ArrowWriter(
            path=str(place / f"{stem}-{split}.arrow"), features=data.features
        ) as writer:
            writer.write_table(data.data.table)
            writer.finalize()
        sizes[split] = datasets.SplitInfo(name=split, num_examples=len(data), dataset_name=stem)
    info = datasets.DatasetInfo(
        features=next(iter(splits.values())).features,
        dataset_name=stem,
        config_name=config,
        version="0.0.0",
        splits=datasets.SplitDict(sizes),
    )
    info.write_to_directory(str(place))


# Names


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hf:uoft-cs/cifar10:test", ("uoft-cs/cifar10", None, "test")),
        ("hf:uoft-cs/cifar10", ("uoft-cs/cifar10", None, None)),
        ("hf:ufldl-stanford/svhn:cropped_digits:test", ("ufldl-stanford/svhn", "cropped_digits", "test")),
        ("hf:a/b.c-d_1:plain text:train", ("a/b.c-d_1", "plain text", "train")),
    ],
)
def test_names_of_the_hub(spec: str, parts: tuple[str, str | None, str | None]) -> None:
    address = parse(spec)
    assert (address.name, address.config, address.split) == parts
    assert address.path is None


def test_what_is_on_disk_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "odd:name").mkdir()
    assert parse("hf:owner/name:test").path is None
    (tmp_path / "owner" / "name").mkdir()
    assert parse("hf:owner/name:test").path == tmp_path / "owner" / "name"
    assert parse("hf:./owner/odd:name").split is None
    address = parse("hf:owner/odd:name:plain:test")
    assert (address.path, address.config, address.split) == (tmp_path / "owner" / "odd:name", "plain", "test")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:", "expected hf:OWNER/NAME:SPLIT"),
        ("hf:a/b:", "expected hf:OWNER/NAME:SPLIT.*, got hf:a/b:"),
        ("hf:a/b::test", "expected hf:OWNER/NAME:SPLIT.*, got hf:a/b::test"),
        ("hf:mnist", r"hf:mnist is not here: looked at .*mnist\. Write hf:OWNER/NAME"),
        ("hf:pandas", "hf:pandas is not here"),  # one of the library's readers, which would take the working folder
        ("hf:./nowhere", r"looked at .*nowhere"),
        ("hf:a/b/c:test", "looked at .*a/b/c"),
        ("hf:https://example.com/a.parquet", "is not here"),
        ("hf:a/b\0", "is not here"),
    ],
)
def test_names_that_are_none(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(spec)


# Files and folders


def test_file(tmp_path: Path) -> None:
    images(5).to_parquet(tmp_path / "a[1].parquet")  # brackets, which the library takes for a pattern
    source = open_source(f"hf:{tmp_path}/a[1].parquet")
    assert len(source) == 5
    assert source.classes == ("cat", "dog")
    assert [(item.name, item.label, grey(item)) for item in source] == [(str(i), i % 2, i) for i in range(5)]
    assert source[0].x.shape == (1, 4, 4)
    assert source[0].x.dtype == torch.float32
    assert grey(open_source(f"hf:{tmp_path}/a[1].parquet:train", start=3, limit=1)[0]) == 3


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    images(2).to_parquet(tmp_path / "a.parquet")
    assert len(open_source(f"hf:{tmp_path}/a.parquet")) == 2
    images(4).to_parquet(tmp_path / "a.parquet")
    assert len(open_source(f"hf:{tmp_path}/a.parquet")) == 4


def test_saved_to_disk(tmp_path: Path) -> None:
    images(3).save_to_disk(tmp_path / "one")
    assert [grey(item) for item in open_source(f"hf:{tmp_path}/one")] == [0, 1, 2]
    datasets.DatasetDict(train=images(2), test=images(3, offset=10)).save_to_disk(tmp_path / "two")
    assert [grey(item) for item in open_source(f"hf:{tmp_path}/two:test")] == [10, 11, 12]
    assert [grey(item) for item in open_source(f"hf:{tmp_path}/two/train")] == [0, 1]
    with pytest.raises(DataError, match=r"expected one of the splits train, test, got none .*Write hf:.*two:train"):
        open_source(f"hf:{tmp_path}/two")
    with pytest.raises(DataError, match="has no configurations"):
        open_source(f"hf:{tmp_path}/two:plain:test")


def test_folder_of_parquet_files(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    images(2).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    images(3, offset=10).to_parquet(folder / "data" / "test-00000-of-00002.parquet")
    images(1, offset=90).to_parquet(folder / "data" / "test-00001-of-00002.parquet")
    assert [grey(item) for item in open_source(f"hf:{folder}:test")] == [10, 11, 12, 90]
    with pytest.raises(DataError, match="expected one of the splits train, test, got valid"):
        open_source(f"hf:{folder}:valid")


def test_configurations(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    for number, config in enumerate(("plain", "hard")):
        (folder / config).mkdir(parents=True)
        images(1, offset=number).to_parquet(folder / config / "test.parquet")
    card = {"configs": [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("plain", "hard")]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    assert grey(open_source(f"hf:{folder}:hard:train")[0]) == 1
    with pytest.raises(DataError, match=r"cannot be read: datasets says .*soft"):
        open_source(f"hf:{folder}:soft:train")


def test_image_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            (tmp_path / "pets" / split / name / "a.png").write_bytes(png(number))
    source = open_source(f"hf:{tmp_path}/pets:test")
    assert source.classes == ("cat", "dog")
    assert [(item.name, item.label, grey(item)) for item in source] == [
        ("test/cat/a.png", 0, 0),
        ("test/dog/a.png", 1, 1),
    ]


def test_many_readers_at_once(tmp_path: Path) -> None:
    images(40).to_parquet(tmp_path / "a.parquet")
    batches = open_source(f"hf:{tmp_path}/a.parquet").batches(8, workers=4)
    assert [grey(item) for batch in batches for item in batch] == list(range(40))


# Streams


def test_a_stream_gives_the_same_items(tmp_path: Path) -> None:
    images(150).to_parquet(tmp_path / "a.parquet")
    spec = f"hf:{tmp_path}/a.parquet"
    stream = open_source(spec, streaming=True)
    assert isinstance(stream, Stream)
    assert (stream.size, stream.classes, stream.labelled) == (None, ("cat", "dog"), True)
    for _ in range(2):
        assert [(i.index, i.name, i.label, grey(i)) for i in stream] == [(i, str(i), i % 2, i) for i in range(150)]
    part = open_source(spec, streaming=True, start=70, limit=3)
    assert [(item.index, item.name, grey(item)) for item in part] == [(i, str(i), i) for i in (70, 71, 72)]
    assert grey(part[2]) == 72
    with pytest.raises(DataError, match="as long as its reading says"):
        stream.count()
    with pytest.raises(DataError, match=r"expected one of the splits train, got test"):
        open_source(f"{spec}:test", streaming=True)
    images(3).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"is on disk already\. Take it without streaming"):
        open_source(f"hf:{tmp_path}/saved", streaming=True)


def test_a_stream_of_an_image_folder_opens_its_own_files_alone(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.png").write_bytes(png(number))
    source = open_source(f"hf:{tmp_path}/pets", streaming=True)
    assert [(item.name, item.label, grey(item)) for item in source] == [("cat/a.png", 0, 0), ("dog/a.png", 1, 1)]
    (tmp_path / "secret.png").write_bytes(png(9))
    rows = [cell(1, "a"), {"bytes": None, "path": str(tmp_path / "secret.png")}, None]
    pq.write_table(made({"image": rows}, {"image": datasets.Image()}).data.table, tmp_path / "a.parquet")
    items = list(open_source(f"hf:{tmp_path}/a.parquet", streaming=True))
    assert [item.x is None for item in items] == [False, True, True]
    assert "outside the data set" in items[1].error


def test_a_stream_of_numbers_with_times(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:  # which states no types
        for i in range(5):
            file.write(json.dumps({"x": [i, 1.5], "label": i % 3, "t": f"2024-05-0{i + 1}"}) + "\n")
    for streaming in (True, False):
        source = open_source(f"hf:{tmp_path}/a.jsonl", streaming=streaming, time="t")
        assert [item.x.tolist() for item in source] == [[i, 1.5] for i in range(5)]
        assert [item.label for item in source] == [0, 1, 2, 0, 1]
        assert [item.time.day for item in source] == [1, 2, 3, 4, 5]
        assert source.is_datetime
    with pytest.raises(DataError, match="has no column when; it has x, label, t"):
        open_source(f"hf:{tmp_path}/a.jsonl", streaming=True, time="when")


# Rows


def test_bad_rows_are_items(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    rows = [
        cell(1, "../../etc/x\x1b[2J"),
        {"bytes": b"junk", "path": None},
        {"bytes": png(3)[:-20], "path": None},
        {"bytes": None, "path": str(tmp_path / "secret.png")},
        {"bytes": None, "path": "https://example.com/a.png"},
        {"bytes": b"", "path": None},
        None,
    ]
    pq.write_table(made({"image": rows}, {"image": datasets.Image()}).data.table, tmp_path / "a.parquet")
    items = list(open_source(f"hf:{tmp_path}/a.parquet"))
    assert items[0].name == "../../etc/x\\x1b[2J"
    assert [item.x is None for item in items] == [False] + [True] * 6
    errors = ["not an image", "unreadable", "outside the data set", "outside the data set", "empty", "no data"]
    assert [item.error for item, part in zip(items[1:], errors, strict=True) if part not in item.error] == []


def test_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "inside.png").write_bytes(png(5))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe.png")
    paths = [str(folder / name) for name in ("inside.png", "link.png", "pipe.png")]
    rows = made({"image": [{"bytes": None, "path": path} for path in paths]}, {"image": datasets.Image(decode=False)})
    rows.to_parquet(folder / "a.parquet")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.parquet\n---\n")
    inside, link, pipe = open_source(f"hf:{folder}")
    assert (inside.name, grey(inside)) == ("inside.png", 5)
    assert "outside the data set" in link.error
    assert "not a regular file" in pipe.error


@pytest.mark.parametrize(
    ("feature", "value", "expected"),
    [
        (datasets.Array2D((2, 3), "float32"), [[1, 2, 3], [4, 5, 6]], torch.tensor([[1.0, 2, 3], [4, 5, 6]])),
        (datasets.Array2D((2, 2), "uint8"), [[0, 51], [255, 0]], torch.tensor([[[0, 0.2], [1, 0]]])),
        (datasets.Array3D((2, 2, 3), "uint8"), np.full((2, 2, 3), 51).tolist(), torch.full((3, 2, 2), 0.2)),
        (datasets.Array3D((1, 2, 2), "float64"), [[[1, 2], [3, 4]]], torch.tensor([[[1.0, 2], [3, 4]]])),
        (datasets.Array2D((None, 2), "int64"), [[1, 2]], torch.tensor([[1.0, 2]])),
        (datasets.Sequence(datasets.Value("float32")), [1.5, 2.5], torch.tensor([1.5, 2.5])),
        (datasets.Sequence(datasets.Value("float16"), length=2), [1.5, 2.5], torch.tensor([1.5, 2.5])),
        (datasets.LargeList(datasets.Value("int16")), [1, 2], torch.tensor([1.0, 2])),
        (datasets.List(datasets.List(datasets.Value("uint8"))), [[0, 255]], torch.tensor([[[0.0, 1]]])),
        (datasets.Value("binary"), png(51), torch.full((1, 4, 4), 0.2)),
        ({"bytes": datasets.Value("binary"), "path": datasets.Value("string")}, cell(51), torch.full((1, 4, 4), 0.2)),
    ],
)
def test_kinds_of_input(tmp_path: Path, feature: object, value: object, expected: torch.Tensor) -> None:
    data = made({"id": ["a", "b"], "x": [value, value]}, {"id": datasets.Value("string"), "x": feature})
    data.save_to_disk(tmp_path / "set")
    for item in open_source(f"hf:{tmp_path}/set"):
        assert item.error is None
        assert torch.equal(item.x, expected)
        assert item.x.dtype == torch.float32
        assert item.label is None


def test_lists_that_are_ragged_or_missing(tmp_path: Path) -> None:
    rows = [[[1.0], [2.0]], [[1.0], [2.0, 3.0]], None, [[None], [1.0]]]
    made({"x": rows}).to_parquet(tmp_path / "a.parquet")
    whole, ragged, missing, gap = open_source(f"hf:{tmp_path}/a.parquet")
    assert whole.x.tolist() == [[1.0], [2.0]]
    assert "inhomogeneous" in ragged.error
    assert missing.error == "no data in the row"
    assert gap.x.isnan().tolist() == [[True], [False]]


def test_json_lines(tmp_path: Path) -> None:
    lines = [{"series": [1.0, 2.0], "target": "b"}, {"series": [3.0, 4.0], "target": "a"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_source(f"hf:{tmp_path}/a.jsonl")
    assert [(item.x.tolist(), item.label) for item in source] == [([1.0, 2.0], 1), ([3.0, 4.0], 0)]
    assert source.classes == ("a", "b")


# Columns


def label_of(columns: dict[str, list], features: dict, folder: Path) -> tuple[list[int | None], tuple[str, ...]]:
    n = len(next(iter(columns.values())))
    data = made({"x": [[0.0]] * n, **columns}, {"x": datasets.List(datasets.Value("float32")), **features})
    data.save_to_disk(folder)
    source = open_source(f"hf:{folder}")
    return [item.label for item in source], source.classes


def test_which_column_is_the_label(tmp_path: Path) -> None:
    fine, coarse = datasets.ClassLabel(names=["apple", "bear"]), datasets.ClassLabel(names=["fruit", "mammal"])
    number = datasets.Value("int64")
    columns = {"label": [5, 5], "fine_label": [1, 0], "coarse_label": [1, 1]}
    features = {"label": number, "fine_label": fine, "coarse_label": coarse}
    assert label_of(columns, features, tmp_path / "a") == ([1, 0], ("apple", "bear"))
    assert label_of({"target": [7, None]}, {"target": number}, tmp_path / "b") == ([7, None], ())
    assert label_of({"labels": ["b", "a"]}, {"labels": datasets.Value("string")}, tmp_path / "c") == (
        [1, 0],
        ("a", "b"),
    )
    assert label_of({"other": [1, 2]}, {"other": number}, tmp_path / "d") == ([None, None], ())
    assert label_of({"labels": [[1], [2]]}, {"labels": datasets.List(number)}, tmp_path / "e") == ([None, None], ())


def test_withheld_labels_are_none(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["cat", "dog"])
    assert label_of({"label": [1, -1, None]}, {"label": label}, tmp_path / "a") == ([1, None, None], ("cat", "dog"))


def test_which_column_is_the_input(tmp_path: Path) -> None:
    columns = {"labels": [[1.0]], "vector": [[1.0]], "left": [cell(3)], "right": [cell(4)]}
    numbers = datasets.List(datasets.Value("float32"))
    features = {"labels": numbers, "vector": numbers, "left": datasets.Image(), "right": datasets.Image()}
    made(columns, features).save_to_disk(tmp_path / "set")
    assert grey(open_source(f"hf:{tmp_path}/set")[0]) == 3
    made({"labels": [[1.0]], "vector": [[2.0]]}).save_to_disk(tmp_path / "lists")
    assert open_source(f"hf:{tmp_path}/lists")[0].x.tolist() == [2.0]


def test_no_column_fits(tmp_path: Path) -> None:
    features = {"id": datasets.Value("int64"), "words": datasets.List(datasets.Value("string")), **IMAGES}
    del features["image"]
    made({"id": [1], "words": [["a"]], "label": [0]}, features).save_to_disk(tmp_path / "set")
    with pytest.raises(
        DataError, match=r"images or of number lists in hf:.*, got id: int64, words: List, label: Class"
    ):
        open_source(f"hf:{tmp_path}/set")


def test_no_rows(cache: Path) -> None:
    in_cache(cache, "a/b", "default", {"test": images(0)})
    with pytest.raises(DataError, match=r"hf:a/b:test cannot be read: .*no data"):
        open_source("hf:a/b:test")


# The hub


def test_cached_data_needs_no_network(cache: Path) -> None:
    in_cache(cache, "uoft-cs/cifar10", "plain_text", {"train": images(2), "test": images(3, offset=10)})
    assert [grey(item) for item in open_source("hf:uoft-cs/cifar10:test")] == [10, 11, 12]
    assert [item.label for item in open_source("hf:uoft-cs/cifar10:plain_text:test")] == [0, 1, 0]
    with pytest.raises(DataError, match="expected one of the splits train, test, got extra"):
        open_source("hf:uoft-cs/cifar10:extra")
    with pytest.raises(DataError, match=r"hf:uoft-cs/cifar10:other:test is not here.*other"):
        open_source("hf:uoft-cs/cifar10:other:test")


def test_offline_says_what_is_missing_and_how_to_get_it(cache: Path) -> None:
    with pytest.raises(DataError, match="is not here") as caught:
        open_source("hf:uoft-cs/cifar10:test")
    message = str(caught.value)
    for part in (
        "hf:uoft-cs/cifar10:test is not here",
        f"looked at {Path.cwd()}/uoft-cs/cifar10, in {cache} and at https://",
        "/datasets/uoft-cs/cifar10, which does not answer (HF_HUB_OFFLINE is set)",
        "Open it once with a network and without HF_HUB_OFFLINE",
        "or copy its files here and write hf:FOLDER",
    ):
        assert part in message


def test_a_silent_network_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"at http://127\.0\.0\.1:9/datasets/a/b, which does not answer \(Connect"):
        open_source("hf:a/b:test")
    assert time.monotonic() - begin < 5


class Empty(BaseHTTPRequestHandler):
    """A hub that holds nothing."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def empty_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", address)
    yield address
    server.shutdown()
    server.server_close()


def test_a_name_that_the_hub_does_not_have(empty_hub: str) -> None:
    with pytest.raises(DataError, match=rf"at {empty_hub}/datasets/a/b; datasets says DatasetNotFoundError: .*a/b"):
        open_source("hf:a/b:test")


def test_the_hub_is_asked_for_name_and_configuration_alone(
    empty_hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(2).to_parquet(tmp_path / "a.parquet")
    builder = datasets.load_dataset_builder("parquet", data_files={"test": str(tmp_path / "a.parquet")})
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args: asked.append(args) or builder)
    assert len(open_source("hf:ufldl-stanford/svhn:cropped_digits:test")) == 2
    assert asked == [("ufldl-stanford/svhn", "cropped_digits")]


def test_a_wrong_split_is_told_before_the_download(
    empty_hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(2).to_parquet(tmp_path / "a.parquet")
    builder = datasets.load_dataset_builder("parquet", data_files={"test": str(tmp_path / "a.parquet")})
    builder.info.splits = datasets.SplitDict({"test": datasets.SplitInfo("test")})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args: builder)
    monkeypatch.setattr(builder, "download_and_prepare", lambda: pytest.fail("a download began"))
    with pytest.raises(DataError, match="expected one of the splits test, got valid"):
        open_source("hf:a/b:valid")


# What is refused, and what is left as it was


def test_nothing_is_executed(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'harm')!r}, 'w')"
    scripted = tmp_path / "scripted"
    scripted.mkdir()
    (scripted / "scripted.py").write_text(code)
    images(1).to_parquet(scripted / "test.parquet")
    with pytest.raises(DataError, match="cannot be read: datasets says RuntimeError: Dataset scripts"):
        open_source(f"hf:{scripted}:test")
    tarred = tmp_path / "tarred"
    tarred.mkdir()
    subprocess.run(["tar", "-cf", "a.tar", "-C", str(scripted), "test.parquet"], cwd=tarred, check=True)
    with pytest.raises(DataError, match="is of the kind webdataset, which is not read; read are arrow, imagefolder, "):
        open_source(f"hf:{tarred}")
    (tmp_path / "a.pkl").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    with pytest.raises(DataError, match=r"is no folder and none of \.parquet, \.arrow"):
        open_source(f"hf:{tmp_path}/a.pkl")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "cause"),
    [("a.parquet", "magic bytes"), ("a.arrow", "too small"), ("a.jsonl", "JSON|Expecting")],
)
def test_broken_files(tmp_path: Path, name: str, cause: str) -> None:
    (tmp_path / name).write_bytes(b"not at all")
    with pytest.raises(DataError, match=rf"{name} cannot be read: datasets says \w+: .*({cause})"):
        open_source(f"hf:{tmp_path}/{name}")


def test_broken_saved_folder(tmp_path: Path) -> None:
    images(2).save_to_disk(tmp_path / "set")
    (tmp_path / "set" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"set cannot be read: datasets says \w+"):
        open_source(f"hf:{tmp_path}/set")


@pytest.mark.parametrize("bars", [True, False])
def test_the_library_is_left_as_it_was(tmp_path: Path, bars: bool) -> None:
    images(2).to_parquet(tmp_path / "a.parquet")
    before = datasets.is_progress_bar_enabled()
    (datasets.enable_progress_bars if bars else datasets.disable_progress_bars)()
    try:

        def state() -> list[object]:
            return [
                datasets.is_progress_bar_enabled(),
                datasets.is_caching_enabled(),
                datasets.logging.get_verbosity(),
                {name: value for name, value in vars(datasets.config).items() if name.isupper()},
                dict(os.environ),
                torch.random.get_rng_state().tolist(),
                np.random.mtrand._rand.get_state()[1].tolist(),
                random.getstate(),
            ]

        was = state()
        assert len(list(open_source(f"hf:{tmp_path}/a.parquet"))) == 2
        with pytest.raises(DataError, match="is not here"):
            open_source("hf:a/b:test")
        assert state() == was
        assert datasets.is_progress_bar_enabled() == bars
    finally:
        (datasets.enable_progress_bars if before else datasets.disable_progress_bars)()


@pytest.mark.process
def test_the_library_is_imported_when_used() -> None:
    code = "import sys, gradgeo, benchmarks.named; print({'datasets', 'huggingface_hub', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.data
def test_the_same_as_parquet_read_directly(gradgeo_data: Path) -> None:
    file = gradgeo_data / "data" / "mnist-test-1000.parquet"
    direct, through = open_source(file), open_source(f"hf:{file}")
    assert len(direct) == len(through) == 1000
    assert direct.classes == through.classes
    for a, b in zip(direct, through, strict=True):
        assert (a.index, a.label, a.error) == (b.index, b.label, None)
        assert torch.equal(a.x, b.x)
