"""The hidden folders beside `out`: nobody loses what is not ours, whatever it is called."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gradgeo import Detector
from gradgeo.data import open_source
from gradgeo.errors import DataError, ModelError
from gradgeo.scoring import check_out, score
from helpers.breaking import Breaking
from helpers.nets import inputs, network

NAMES = ["v.csv", "v.parquet", "v"]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(network(inputs=16, width=12).eval(), evidence=["confidence"]).fit(inputs(300, shape=(1, 4, 4)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.random.RandomState(0).rand(50, 1, 4, 4))
    return tmp_path / "a.npy"


def begun(detector: Detector, data: Path, out: Path) -> None:
    """A run of `out` that ends with two of its five parts done."""
    with pytest.raises(ModelError, match="out of memory"):
        score(Breaking(detector, 24), open_source(data), out, batch_size=5, part_size=10)


def precious(folder: Path) -> Path:
    folder.mkdir()
    for name in ("thesis.txt", "part-00000.csv", "part-00000.parquet"):
        (folder / name).write_text("precious")
    return folder


def is_whole(folder: Path) -> bool:
    return [path.read_text() for path in folder.iterdir()] == ["precious"] * 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["parts", "old"])
@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_what_is_not_ours_is_refused_before_any_work(
    detector: Detector, data: Path, tmp_path: Path, name: str, ending: str, kind: str
) -> None:
    place, elsewhere = tmp_path / f".{name}.{ending}", precious(tmp_path / "elsewhere")
    if kind == "folder":
        precious(place)
    elif kind == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("precious")
    says = (
        f"cannot write .*{name}: .*{place.name} is needed for it, and is not a folder that gradgeo made. Move it else"
    )
    with pytest.raises(DataError, match=says):
        check_out(tmp_path / name)
    for restart in (False, True):
        with pytest.raises(DataError, match=says):
            score(Breaking(detector, 0), open_source(data), tmp_path / name, restart=restart)
    assert is_whole(elsewhere)
    assert place.read_text() == "precious" if kind == "file" else is_whole(place)
    assert not (tmp_path / name).exists()


def test_links_among_our_files_are_not_written_through(detector: Detector, data: Path, tmp_path: Path) -> None:
    begun(detector, data, tmp_path / "v.csv")
    folder, mine = tmp_path / ".v.csv.parts", tmp_path / "mine.csv"
    mine.write_text("precious")
    for name in ("part-00001.csv", "part-00002.csv", "part-whole.csv"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(mine)
    assert score(detector, open_source(data), tmp_path / "v.csv", part_size=10).resumed == 10
    assert mine.read_text() == "precious"
    assert len((tmp_path / "v.csv").read_text().splitlines()) == 51
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "mine.csv", "v.csv"]


def test_a_file_among_the_parts_stays(detector: Detector, data: Path, tmp_path: Path) -> None:
    begun(detector, data, tmp_path / "v.csv")
    (tmp_path / ".v.csv.parts" / "thesis.txt").write_text("precious")
    with pytest.warns(match=r"\.v\.csv\.old holds other files and is left there: thesis\.txt\."):
        assert score(detector, open_source(data), tmp_path / "v.csv", part_size=10).resumed == 20
    assert [path.name for path in (tmp_path / ".v.csv.old").iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match=r"\.v\.csv\.old is needed for it, and is not a folder that gradgeo made"):
        score(detector, open_source(data), tmp_path / "v.csv", part_size=10)


def test_what_else_lies_in_a_finished_folder_stays_in_it(detector: Detector, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "v"
    score(detector, open_source(data, limit=30), out, part_size=10)
    (out / "notes.txt").write_text("precious")
    precious(out / "sub")
    score(detector, open_source(data), out, part_size=10, restart=True)
    assert (out / "notes.txt").read_text() == "precious"
    assert is_whole(out / "sub")
    assert len(pq.read_table(sorted(out.glob("*.parquet")))) == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "v"]


def test_a_folder_that_is_in_the_way_by_the_end(detector: Detector, data: Path, tmp_path: Path) -> None:
    def in_the_way(inputs: int) -> None:
        if not (tmp_path / ".v.csv.old").exists():
            precious(tmp_path / ".v.csv.old")

    with pytest.raises(DataError, match=r"cannot write .*v\.csv: .*What is done stays"):
        score(detector, open_source(data), tmp_path / "v.csv", part_size=10, progress=in_the_way)
    assert is_whole(tmp_path / ".v.csv.old")
    assert len((tmp_path / "v.csv").read_text().splitlines()) == 51
