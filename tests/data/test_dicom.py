"""DICOM files of pydicom's own tests: what they hold, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch

from gradgeo.data import Preprocess, open_source
from gradgeo.errors import ArgumentError

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install '.[dicom]'")
from pydicom.data import get_testdata_file  # noqa: E402


def of(name: str) -> Path:
    return Path(str(get_testdata_file(name)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files without an ending, as exported studies have them, in folders by class."""
    folder = tmp_path_factory.mktemp("study")
    for name, place in {
        "CT_small.dcm": "ct/1",
        "rtdose_1frame.dcm": "dose/1",
        "rtdose.dcm": "dose/2",
        "SC_rgb_small_odd.dcm": "rgb/1",
        "image_dfl.dcm": "wrong/deflated",
        "liver_1frame.dcm": "wrong/short",
    }.items():
        (folder / place).parent.mkdir(exist_ok=True)
        shutil.copy(of(name), folder / place)
    (folder / "wrong" / "short").write_bytes((folder / "wrong" / "short").read_bytes()[:700])
    (folder / "wrong" / "README").write_text("no image")
    return folder


def test_a_folder_of_files_without_endings_is_read(study: Path) -> None:
    source = open_source(study)
    assert source.classes == ("ct", "dose", "rgb", "wrong")
    items = {item.name: item for item in source}
    assert [*items] == ["ct/1", "dose/1", "dose/2", "rgb/1", "wrong/deflated", "wrong/short"]
    ct = pydicom.dcmread(study / "ct" / "1")
    hounsfield = ct.pixel_array.astype(float) * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
    assert torch.equal(items["ct/1"].x, torch.from_numpy(hounsfield)[None].float())
    volume = pydicom.dcmread(study / "dose" / "2").pixel_array
    assert torch.equal(items["dose/2"].x[0], torch.from_numpy(volume[len(volume) // 2].astype(float)).float())
    assert items["rgb/1"].x.shape == (3, 3, 3)
    assert 0 <= float(items["rgb/1"].x.min()) <= float(items["rgb/1"].x.max()) <= 1
    assert "deflated DICOM is not read" in str(items["wrong/deflated"].error)
    assert "unreadable DICOM" in str(items["wrong/short"].error)


def test_a_window_makes_grey_values_pictures(study: Path, tmp_path: Path) -> None:
    shutil.copy(study / "ct" / "1", tmp_path / "slice.dcm")  # an image by its name
    raw = open_source(tmp_path)[0].x
    seen = open_source(tmp_path, preprocess=Preprocess(window=(40, 400), size=(32, 32)))[0].x
    assert seen.shape == (1, 32, 32)
    whole, inside = Preprocess(window=(40, 400))(raw), (raw > -160) & (raw < 240)
    assert whole[raw <= -160].max() == 0
    assert torch.allclose(whole[inside], (raw[inside] + 160) / 400)
    assert Preprocess.from_dict(Preprocess(window=(40, 400)).as_dict()) == Preprocess(window=(40, 400))
    with pytest.raises(ArgumentError, match="expected window to be a centre and a width above 0"):
        Preprocess(window=(40, 0))


def test_where_large_is_dark_the_scale_is_turned(tmp_path: Path) -> None:
    header = pydicom.dcmread(of("CT_small.dcm"))
    stored = header.pixel_array.astype(float)
    header.PhotometricInterpretation = "MONOCHROME1"
    header.save_as(tmp_path / "a.dcm")
    turned = (-1 - stored) * float(header.RescaleSlope) + float(header.RescaleIntercept)
    assert torch.equal(open_source(tmp_path)[0].x[0], torch.from_numpy(turned).float())


def test_too_many_pixels_are_not_decoded(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradgeo.data.limits.MOST_PIXELS", 99)
    assert "pixels are too many" in str(open_source(study)[0].error)
