"""A FiftyOne data set with verdicts as fields."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradgeo import Detector
from gradgeo.data.images import decode, to_pillow
from gradgeo.errors import ArgumentError
from gradgeo.integrations.fiftyone import add_verdicts


@pytest.fixture
def files(x: Tensor, tmp_path: Path) -> list[str]:
    files = []
    for i, image in enumerate(x[:5]):
        to_pillow(image).save(tmp_path / f"{i}.png")
        files.append(str(tmp_path / f"{i}.png"))
    (tmp_path / "lie.png").write_text("no picture")
    return [*files, str(tmp_path / "lie.png"), str(tmp_path / "missing.png")]


@pytest.mark.filterwarnings("ignore")
def test_samples_get_their_verdicts(fitted: Detector, files: list[str]) -> None:
    fo: Any = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    try:
        dataset = fo.Dataset()
    except Exception as error:  # its database is a program of its own
        pytest.skip(f"FiftyOne's database does not start: {type(error).__name__}")
    dataset.add_samples([fo.Sample(filepath=file) for file in files])
    add_verdicts(dataset, fitted, batch_size=2)
    wanted = fitted.predict(torch.stack([decode(Path(file).read_bytes()) for file in files[:5]]))
    found = dataset.values("gradgeo")
    assert found[5:] == [None, None]
    assert [one.trusted for one in found[:5]] == wanted.trusted.tolist()
    assert [one.label for one in found[:5]] == [["ant", "bee", "cat", "dog"][c] for c in wanted.label]
    errors = dataset.values("gradgeo_error")
    assert errors[:5] == [None] * 5
    assert "not an image" in errors[5]
    assert len(dataset.match(fo.ViewField("gradgeo.trusted") == False)) == int((~wanted.trusted).sum())  # noqa: E712
    dataset.delete()


def test_preparation_must_be_known(fitted: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    monkeypatch.setattr(fitted, "notes", {})
    with pytest.raises(ArgumentError, match="expected preprocess to be given"):
        add_verdicts(None, fitted)
