import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.named import NAMED, find
from gradgeo.data import Preprocess
from gradgeo.data.hub import HUB_NAME
from gradgeo.errors import ArgumentError, DataError


def write(folder: Path, name: str, rows: int, classes: int = 10) -> None:
    (folder / "data").mkdir(exist_ok=True)
    labels = pa.array([f"class {i % classes:03d}" for i in range(rows)])
    x = pa.array(np.arange(rows, dtype=np.float32)[:, None].tolist())
    pq.write_table(pa.table({"x": x, "label": labels}), folder / "data" / f"{name}.parquet")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed; it comes with gradgeo[hub]")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", NAMED)
def test_entries(name: str) -> None:
    entry = NAMED[name]
    assert entry.hub is None or HUB_NAME.fullmatch(entry.hub)
    assert {"train", "test"} <= set(entry.splits)
    assert entry.shape in {(1, 28, 28), (3, 32, 32)}
    assert entry.paper[-4:].isdigit()


def test_a_local_file_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "fashion-mnist-test", 10)
    write(tmp_path, "mnist-test", 20)
    assert len(find("fashion_mnist", "test", tmp_path)) == 10
    assert len(find("fashion-mnist", folder=str(tmp_path))) == 10
    assert len(find("mnist", folder=tmp_path)) == 20
    part = find("mnist", "test", tmp_path, start=4, limit=3, preprocess=Preprocess(mean=(1.0,)))
    assert [item.x.tolist() for item in part] == [[3.0], [4.0], [5.0]]


def test_the_most_of_a_split_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "cifar10-train-900", 90)
    write(tmp_path, "cifar10-train-1000", 100)
    write(tmp_path, "cifar10-train-00000-of-00002", 50)  # a shard, which is less than it seems
    write(tmp_path, "cifar10-training", 20)
    assert len(find("cifar10", "train", tmp_path)) == 100
    write(tmp_path, "cifar10-train", 30)
    assert len(find("cifar10", "train", tmp_path)) == 30


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"find: expected name to be one of 'mnist', .*got 'imagenet'"):
        find("imagenet")
    with pytest.raises(ArgumentError, match="expected split to be one of 'train', 'test', got 'extra'"):
        find("mnist", "extra", tmp_path)


def test_missing_says_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=rf"the extra split of svhn is not here: looked in {tmp_path}/data for svhn-extra\.parquet, and "
        rf"hf:ufldl-stanford/svhn:cropped_digits:extra is not here: .*{tmp_path}/cache.* Open it once with a network"
        r".* Source: Y\. Netzer",
    ):
        find("svhn", "extra", tmp_path)
    with pytest.raises(DataError, match=r"no folder was named to look in for mnist-test\.parquet"):
        find("mnist")
    with pytest.raises(DataError, match=r"emnist_digits-test\.parquet, and no copy on .* is known to be plain data"):
        find("emnist-digits", "test", tmp_path)


def test_missing_library_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    write(tmp_path, "mnist-test", 10)
    assert len(find("mnist", "test", tmp_path)) == 10
    with pytest.raises(DataError, match=r"kmnist-test\.parquet, and datasets is needed .*'\.\[hub\]'"):
        find("kmnist", "test", tmp_path)


def test_other_data_under_the_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "cifar100-test", 20, classes=20)
    with pytest.raises(DataError, match=r"expected cifar100 to have 100 classes, got 20 in .*cifar100-test\.parquet"):
        find("cifar100", "test", tmp_path)
    (tmp_path / "data" / "mnist-test.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"^find: \S*mnist-test\.parquet cannot be read as Parquet"):
        find("mnist", "test", tmp_path)


def test_the_hub_is_asked_for_the_right_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "elsewhere", 10)
    asked: list[str] = []

    def opened(spec: str, root: Path | None, **options: object) -> object:
        from gradgeo.data.parquet import Parquet

        asked.append(spec)
        return Parquet(tmp_path / "data" / "elsewhere.parquet")

    monkeypatch.setattr("gradgeo.data._reader", opened)
    assert len(find("svhn")) == 10
    assert len(find("mnist", "train", tmp_path)) == 10
    assert asked == ["hf:ufldl-stanford/svhn:cropped_digits:test", "hf:ylecun/mnist:train"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_shared_data(gradgeo_data: Path, name: str) -> None:
    for split in ("train", "test"):
        item = find(name, split, gradgeo_data)[0]
        assert item.x.shape == NAMED[name].shape
        assert item.x.dtype == torch.float32
        assert item.label in range(NAMED[name].classes)
