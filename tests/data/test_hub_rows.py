"""What a row says of an input, and what a person is shown of a flagged one."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from gradgeo import Detector
from gradgeo.data import Preprocess, open_source
from gradgeo.scoring import draw, score
from gradgeo.scoring.previews import SIDE, picture, signal, similarities, thumbnail
from gradgeo.scoring.schema import MOST_POINTS


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Of 3 x 4 x 4 images, in 12 classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 12)).eval()
    return Detector(model, evidence="fast").fit(torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(1)))


def rows_of(detector: Detector, tmp_path: Path, x: np.ndarray, **options: object) -> list[dict]:
    np.save(tmp_path / "a.npy", x)
    score(detector, open_source(tmp_path / "a.npy", **options), tmp_path / "v.parquet", batch_size=7, part_size=100)
    return pq.read_table(tmp_path / "v.parquet").to_pylist()


def test_rows_say_what_the_detector_says(detector: Detector, tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(40, 3, 4, 4).astype(np.float32)
    x[::2] *= 4
    rows = rows_of(detector, tmp_path, x)
    flagged = [row for row in rows if not row["trusted"]]
    assert 15 < len(flagged) < 30
    explanations = detector.explain(torch.from_numpy(x))
    for row, why in zip(rows, explanations, strict=True):
        assert row["evidence"] == pytest.approx(
            [why.evidence[e].p_value for e in detector.evidence_],
            abs=1e-6,
        )
        assert row["cause"] == why.cause
        if row["trusted"]:
            assert [row[name] for name in ("cause", "signal", "csm", "csm_classes", "saliency")] == [None] * 5
            assert (row["thumbnail"] is not None) == draw.pictured(row["index"])
            continue
        assert row["signal"] is None
        assert row["saliency"].startswith(b"\x89PNG")
        assert len(row["csm_classes"]) == 10
        assert row["csm_classes"][0] == row["label"]
        classes = list(why.classes)
        matrix = np.reshape(row["csm"], (10, 10))
        assert np.allclose(np.diag(matrix), 1)
        place = [classes.index(c) for c in row["csm_classes"]]
        assert np.allclose(matrix, why.csm[place][:, place], atol=1e-5)


@pytest.mark.journey
def test_the_first_64_flagged_of_each_part_have_pictures(detector: Detector, tmp_path: Path) -> None:
    x = 5 * np.random.RandomState(0).rand(250, 3, 4, 4)
    x[7] = np.nan
    with pytest.warns(match="1 of 250 inputs have no verdict"):
        rows = rows_of(detector, tmp_path, x)
    for first in (0, 100, 200):
        flagged = [row for row in rows[first : first + 100] if not row["trusted"] and row["error"] is None]
        shown = [row["thumbnail"] is not None for row in flagged]
        assert shown == [i < 64 for i in range(len(flagged))]
        assert shown == [row["csm"] is not None for row in flagged]
        assert shown == [row["saliency"] is not None for row in flagged]
    assert [rows[7][name] for name in ("cause", "evidence", "thumbnail", "csm")] == [None] * 4


def test_no_pictures_without_pillow(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    rows = rows_of(detector, tmp_path, 5 * np.random.RandomState(0).rand(20, 3, 4, 4))
    assert all(row["thumbnail"] is None for row in rows)
    assert any(row["csm"] for row in rows)


def test_times_become_a_column(detector: Detector, tmp_path: Path) -> None:
    x = [row.ravel().tolist() for row in np.random.RandomState(0).rand(3, 48)]
    kind = pa.fixed_shape_tensor(pa.float64(), (3, 4, 4))
    tensors = pa.ExtensionArray.from_storage(kind, pa.array(x, pa.list_(pa.float64(), 48)))
    for column, arrow in ((["2024-05-01", None, "2024-05-03"], "timestamp[us]"), ([1, None, 3], "double")):
        pq.write_table(pa.table({"x": tensors, "t": column}), tmp_path / "a.parquet")
        score(detector, open_source(tmp_path / "a.parquet", time="t"), tmp_path / "v.parquet")
        table = pq.read_table(tmp_path / "v.parquet")
        assert str(table.schema.field("time").type) == arrow
        assert table["time"].null_count == 1
        score(detector, open_source(tmp_path / "a.parquet", time="t"), tmp_path / "v.csv")
        last = (tmp_path / "v.csv").read_text().splitlines()[-1]
        assert last.endswith(",2024-05-03 00:00:00" if arrow != "double" else ",3.0")


# Pictures


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def test_thumbnails() -> None:
    small = opened(thumbnail(torch.full((1, 8, 5), 0.2)))
    assert (small.format, small.mode, small.size) == ("PNG", "L", (5, 8))
    assert small.getpixel((0, 0)) == 51
    assert opened(thumbnail(torch.rand(3, 300, 200))).size == (64, SIDE)
    assert opened(thumbnail(torch.rand(5, 8, 8))).mode == "RGB"
    assert opened(thumbnail(torch.rand(2, 8, 8))).mode == "L"
    stretched = opened(thumbnail(torch.tensor([[[-3.0, 7.0]] * 2])))
    assert stretched.getpixel((0, 0)) == 0
    assert stretched.getpixel((1, 0)) == 255
    assert opened(thumbnail(torch.full((1, 4, 4), 9.0))).getpixel((0, 0)) == 0  # one value, no range


def test_a_thumbnail_shows_what_was_there_before_normalising() -> None:
    image = torch.stack([torch.full((8, 8), v) for v in (1.0, 0.0, 0.2)])
    preprocess = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2,), order="bgr")
    made = picture(preprocess(image), preprocess)
    assert opened(made["thumbnail"]).getpixel((0, 0)) == (255, 0, 51)


def test_signals_keep_their_peaks() -> None:
    assert signal(torch.arange(5.0)) == [0, 1, 2, 3, 4]
    x = torch.sin(torch.linspace(0, 9, 10_000))
    x[1234], x[8000] = 9, -9
    kept = signal(x)
    assert len(kept) <= MOST_POINTS
    assert (max(kept), min(kept)) == (9, -9)
    assert kept.index(9.0) < kept.index(-9.0)
    assert len(signal(torch.rand(257))) <= MOST_POINTS
    assert picture(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), Preprocess()) == {"signal": [1, 2]}
    assert picture(torch.tensor([1.0, 2.0]), Preprocess(mean=(1.0,))) == {"signal": [2, 3]}
    assert picture(torch.tensor([[[1.0, 2.0]]]), Preprocess()) == {"signal": [1, 2]}
    assert picture(torch.zeros(1, 2, 2, 2), Preprocess()) == {}


def test_a_csm_that_is_not_finite_is_left_out(detector: Detector) -> None:
    [why] = detector.explain(torch.zeros(1, 3, 4, 4))
    why.csm[11, 10] = torch.nan
    assert similarities(why, torch.arange(12.0)) == {}


# Every kind of image that a folder may hold


def test_a_folder_of_odd_images(detector: Detector, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    random = np.random.RandomState(0)

    def pixels(*shape: int) -> np.ndarray:
        return random.randint(0, 255, shape, np.uint8)

    Image.fromarray(pixels(4, 4, 3)).save(folder / "rgb.png")
    Image.fromarray(pixels(4, 4)).save(folder / "grey.png")
    Image.fromarray(pixels(4, 4, 4), "RGBA").save(folder / "rgba.png")
    Image.fromarray(random.randint(0, 65535, (4, 4)).astype(np.uint16)).save(folder / "sixteen.png")
    frames = [Image.fromarray(pixels(4, 4)) for _ in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(pixels(90, 50, 3)).save(folder / "large.png")
    whole = io.BytesIO()
    Image.fromarray(pixels(64, 64, 3)).save(whole, "PNG")
    (folder / "truncated.png").write_bytes(whole.getvalue()[:-200])
    (folder / "zero.png").write_bytes(b"")
    bomb = bytearray(whole.getvalue())
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)  # the size that its header states
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (folder / "bomb.png").write_bytes(bomb)
    source = open_source(folder, preprocess=Preprocess(size=(4, 4), channels=3))
    with pytest.warns(match="3 of 9 inputs have no verdict"):
        summary = score(detector, source, tmp_path / "v.csv", workers=2)
    assert (summary.rows, summary.scored) == (9, 6)
    with pytest.warns(match="3 of 9 inputs have no verdict"):
        score(detector, source, tmp_path / "v.parquet")
    errors = {row["name"]: row["error"] for row in pq.read_table(tmp_path / "v.parquet").to_pylist() if row["error"]}
    assert set(errors) == {"bomb.png", "truncated.png", "zero.png"}
    assert "too many" in errors["bomb.png"]
    assert errors["zero.png"] == "empty (0 bytes)"
