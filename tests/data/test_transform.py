"""`--transform`: settings that say the same are stored; code is stored by name and hash, and run only where named."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradgeo.data import Preprocess, open_source
from gradgeo.data.images import as_picture, from_picture
from gradgeo.data.transform import Transform, load_transform, preparation_of
from gradgeo.errors import ArgumentError, DataError

pillow = pytest.importorskip("PIL.Image")
torchvision = pytest.importorskip("torchvision")

CODE = """
import torch
from torchvision import transforms as T
from torchvision.transforms import v2
from gradgeo.data import Preprocess

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
plain = T.Compose([T.Resize(40), T.CenterCrop(32), T.ToTensor(), T.Normalize(MEAN, STD)])
stretched = v2.Compose([v2.ToImage(), v2.Resize((24, 32)), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
def made(): return T.Compose([T.Grayscale(), T.Resize((16, 16)), T.ToTensor()])
settings = {"size": [8, 8]}
ours = Preprocess(channels=1)
augmented = T.Compose([T.RandomHorizontalFlip(1.0), T.ToTensor()])
swapped = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD), T.CenterCrop(32)])
def code(picture):
    if picture.size[0] == 7: raise ValueError("seven")
    return torch.full((2,), picture.size[0] / picture.size[1])
def whole(picture): return torch.ones(2, dtype=torch.int64)
number = 3
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("code") / "prep.py"
    file.write_text(CODE)
    return file


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("plain", {"resize": 40, "crop": [32, 32], "channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}),
        (
            "stretched",
            {"size": [24, 32], "stretch": True, "channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
        ),
        ("made", {"size": [16, 16], "stretch": True, "channels": 1}),
        ("settings", {"size": [8, 8]}),
        ("ours", {"channels": 1}),
    ],
)
def test_what_settings_can_say_is_settings(own: Path, name: str, settings: dict[str, Any]) -> None:
    made = load_transform(f"{own}:{name}")
    assert isinstance(made, Preprocess)
    assert made.declared() == settings
    assert Preprocess.from_dict(json.loads(json.dumps(made.as_dict()))) == made


@pytest.mark.parametrize("name", ["augmented", "swapped", "code"])
def test_what_they_cannot_is_code_by_name_and_hash(own: Path, name: str) -> None:
    made = load_transform(f"{own}:{name}")
    assert isinstance(made, Transform)
    assert made.as_dict().keys() == {"transform", "sha256"}
    assert pickle.loads(pickle.dumps(made)) == made


def test_code_sees_pictures_as_pillow_has_them(tmp_path: Path, own: Path) -> None:
    draw = np.random.default_rng(0)
    for name, pixels in (
        ("grey.png", draw.integers(0, 256, (5, 6), dtype=np.uint8)),
        ("rgb.png", draw.integers(0, 256, (5, 6, 3), dtype=np.uint8)),
        ("deep.png", draw.integers(0, 1 << 16, (5, 6), dtype=np.uint16)),
    ):
        picture = pillow.fromarray(pixels)
        assert np.array_equal(np.asarray(as_picture(from_picture(picture))), pixels), name
        picture.save(tmp_path / name)
    pillow.new("L", (7, 7)).save(tmp_path / "seven.png")
    items = list(open_source(tmp_path, preprocess=load_transform(f"{own}:code")))
    assert [item.error for item in items] == [None, None, None, "ValueError: seven"]
    assert items[0].x.tolist() == pytest.approx([1.2, 1.2])
    (item, *_) = open_source(tmp_path, preprocess=load_transform(f"{own}:whole"))
    assert "whole to return a tensor of floating-point numbers, got a tensor of shape (2,)" in str(item.error)


def test_code_named_in_a_detector_file_is_not_run(own: Path, tmp_path: Path) -> None:
    made = load_transform(f"{own}:code")
    notes = {"preprocess": made.as_dict()}
    with pytest.raises(DataError, match=r"pass --transform .*prep.py:code: code prepared the inputs of fit"):
        preparation_of(notes, None)
    with pytest.raises(DataError, match=r"code, prepared the inputs of fit, and is run only where it is named again"):
        Preprocess.from_dict(notes["preprocess"])
    assert preparation_of(notes, f"{own}:code") == made
    (tmp_path / "prep.py").write_text(CODE + "\n# another")
    for other in (f"{tmp_path / 'prep.py'}:code", f"{own}:plain"):
        with pytest.raises(DataError, match=r"is not what prepared the inputs of fit, .*prep.py:code: its file"):
            preparation_of(notes, other)
    assert preparation_of({"preprocess": {"size": [8, 8]}}, None) == Preprocess(size=(8, 8))


def test_preparations_of_the_zoos() -> None:
    made = load_transform("torchvision:ResNet18_Weights.IMAGENET1K_V1")
    assert isinstance(made, Preprocess)
    assert (made.resize, made.crop, made.channels) == (256, (224, 224), 3)
    assert load_transform("torchvision", "torchvision:resnet18") == made == load_transform("torchvision:resnet18")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm", "expected transform to be timm:NAME where the model is no timm: model"),
        ("torchvision:No_Weights.DEFAULT", "weights for a classifier in torchvision.models, got 'No_Weights.DEFAULT'"),
        ("torchvision:nothing", "a model of torchvision whose preparation it knows, got 'nothing'"),
        ("prep", "expected transform to be file.py:function, timm:NAME"),
        ("nowhere.py:prep", "expected transform to be a file that exists"),
        ("OWN:number", "expected transform to be a function of one value"),
    ],
)
def test_names_that_are_no_preparation(own: Path, spec: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        load_transform(spec.replace("OWN", str(own)))


def test_a_stretched_picture_is_taken_whole() -> None:
    x = torch.zeros(1, 4, 8)
    x[..., :2] = 1
    assert Preprocess(size=(4, 4), stretch=True)(x)[0, :, 0].min() > 0.5
    assert Preprocess(size=(4, 4))(x).max() == 0
    with pytest.raises(ArgumentError, match="expected stretch to be True or False"):
        Preprocess(stretch=1)  # type: ignore[arg-type]
