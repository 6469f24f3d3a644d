"""MONAI bundles: `--model monai:FOLDER` and `--transform monai:FOLDER`, with the real library."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradgeo.data import open_source
from gradgeo.data.models import class_names, is_named, load_model
from gradgeo.data.models.bundle import from_bundle
from gradgeo.data.transform import Transform, load_transform, preparation_of
from gradgeo.errors import ArgumentError, DataError, ModelError
from helpers.commands import run

pillow = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's own, on import

SIDE = 8
CODE = """
from torch import nn
def network(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, classes))
def per_pixel(classes):
    return nn.Conv2d(3, classes, 3)
"""
INFERENCE: dict[str, Any] = {
    "imports": ["$import torch"],
    "bundle_root": ".",
    "classes": 3,
    "device": "$torch.device('cpu')",
    "network_def": {"_target_": "scripts.parts.network", "classes": "@classes"},
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1},
            {"_target_": "Resized", "keys": "image", "spatial_size": "$[@side, @side]"},
        ],
    },
    "side": SIDE,
    "dataset": "$1 / 0",
}
METADATA: dict[str, Any] = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 3, "spatial_shape": [SIDE, SIDE]}},
        "outputs": {"pred": {"num_channels": 3, "channel_def": {"0": "clear", "1": "cloudy", "2": "dense"}}},
    }
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle as MONAI's are: a configuration with expressions and a module of its own, metadata and weights."""
    pytest.importorskip("monai.bundle", reason="monai is not installed")
    folder = tmp_path / "bundle"
    for name in ("configs", "models", "scripts"):
        (folder / name).mkdir(parents=True)
    (folder / "scripts/__init__.py").touch()
    (folder / "scripts/parts.py").write_text(CODE)
    configure(folder, {})
    (folder / "configs/metadata.json").write_text(json.dumps(METADATA))
    torch.save({"model": network().state_dict()}, folder / "models/model.pt")
    return folder


def configure(folder: Path, changed: dict[str, Any]) -> None:
    (folder / "configs/inference.json").write_text(json.dumps(INFERENCE | changed))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)).eval()


def picture(seed: int = 0, channels: int = 3) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 20, channels), dtype=np.uint8)
    return pillow.fromarray(pixels if channels == 3 else pixels[..., 0])


def test_the_network_comes_with_weights_and_class_names(bundle: Path) -> None:
    before = torch.get_rng_state()
    model = load_model(f"monai:{bundle}")
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(4, 3, SIDE, SIDE)
    torch.testing.assert_close(model(x), network()(x))
    assert not model.training
    assert class_names(model) == ("clear", "cloudy", "dense")
    assert not is_named(f"monai:{bundle}")  # a detector's notes do not open it
    configure(bundle, {"network_def": "$None"})
    with pytest.raises(ModelError, match=r"expected the network of monai:.* to be a torch.nn.Module, got None"):
        load_model(f"monai:{bundle}")


def test_pictures_are_prepared_as_monai_prepares_their_files(bundle: Path, tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    made = load_transform(f"monai:{bundle}")
    assert isinstance(made, Transform)
    assert load_transform("monai", f"monai:{bundle}") == made == pickle.loads(pickle.dumps(made))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    steps = parser.get_parsed_content("preprocessing")
    (tmp_path / "files").mkdir()
    for number in range(3):
        picture(number).save(tmp_path / f"files/{number}.png")
    for item in open_source(tmp_path / "files", preprocess=made):
        assert item.x is not None
        file = tmp_path / "files" / item.name
        wanted = steps({"image": str(file)})["image"].as_tensor()
        assert torch.equal(item.x, wanted)
        assert torch.equal(made(file), wanted)  # as the user's own data may give it
        assert type(item.x) is torch.Tensor
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nfiles = [(Path({str(file)!r}), 1)]")
    (item,) = open_source(f"{tmp_path / 'own.py'}:files", preprocess=made)
    assert item.x is not None
    assert torch.equal(item.x, wanted)
    (bundle / "scripts/parts.py").write_text(CODE + "\n")
    assert load_transform(f"monai:{bundle}") != made


def test_slices_and_what_is_no_picture(bundle: Path) -> None:
    made, grey = load_transform(f"monai:{bundle}"), picture(channels=1)
    x = torch.from_numpy(np.asarray(grey).astype(np.float32))[None]
    assert torch.equal(made(x), made(grey))
    for value in (torch.zeros(2, 4, 4), "a text", 3):
        with pytest.raises(DataError, match=r"expected a picture, a slice \(1, H, W\) or a pathlib.Path to read, got"):
            made(value)
    arrays = {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "EnsureType"},
            {"_target_": "ScaleIntensity", "minv": None, "maxv": None, "factor": 1.0},
        ],
    }
    configure(bundle, {"preprocessing": arrays})
    assert torch.equal(load_transform(f"monai:{bundle}")(torch.ones(2, 4)), torch.full((2, 4), 2.0))


def test_readers_options_are_kept(bundle: Path) -> None:
    steps = json.loads(json.dumps(INFERENCE["preprocessing"]))
    steps["transforms"][0] |= {"reader": "PILReader", "converter": "$lambda image: image.convert('RGB')"}
    configure(bundle, {"preprocessing": steps})
    assert load_transform(f"monai:{bundle}")(picture(channels=1)).shape == (3, SIDE, SIDE)


def test_a_detector_file_never_runs_a_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "held_out").mkdir()
    for number in range(60):
        picture(number).save(tmp_path / f"held_out/{number:02}.png")
    spec, file, data = f"monai:{bundle}", tmp_path / "d.gradgeo", ("--data", tmp_path / "held_out")
    code, _, err = run("fit", "--model", spec, *data, "--evidence", "confidence", "--out", file)
    assert code == 0, err

    def score(*options: str) -> str:
        code, _, err = run("score", file, *data, *options, "--out", tmp_path / "v.csv")
        return err.replace("\n", " ") if code else (tmp_path / "v.csv").read_text()

    configure(bundle, {"side": "$open(@bundle_root + '/ran', 'w') and 8"})
    assert f"pass --transform {spec}: code prepared the inputs of fit, and is run only if named" in score()
    assert not (bundle / "ran").exists()
    assert f"{spec} is not what prepared the inputs of fit" in score("--transform", spec)
    configure(bundle, {})
    assert f"pass --model; the detector was fitted with {spec}" in score("--transform", spec)
    for transform in (spec, "monai"):
        assert re.search(r",(clear|cloudy|dense)\n", score("--model", spec, "--transform", transform))
    known = {"preprocess": load_transform(spec).as_dict()}
    assert preparation_of(known, spec) == load_transform(spec)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network_def": {"_target_": "scripts.parts.per_pixel", "classes": 3}}, r"with logits \(N, C\), got \(1, 3, 6, 6\) for one input: a class for each"),
        ({"network_def": "$1 / 0"}, r"(?s)network_def of monai:.* failed: .*\(ZeroDivisionError: division by zero\)"),
        ({"network_def": "$exit()"}, "network_def of monai:.* failed:"),
        ({"network_def": {"_target_": "torch.nn.Flatten"}}, "got none among|other shapes|expected one module"),
        ({"classes": 4}, "model.pt has other shapes for 2 of the model's 4 tensors: 3.weight"),
    ],
)  # fmt: skip
def test_networks_that_are_refused(bundle: Path, changed: dict[str, Any], message: str) -> None:
    configure(bundle, changed)
    if "per_pixel" in str(changed):
        torch.save(nn.Conv2d(3, 3, 3).state_dict(), bundle / "models/model.pt")
    with pytest.raises(ModelError, match=message):
        load_model(f"monai:{bundle}")


def test_bundles_without_what_is_needed(bundle: Path) -> None:
    spec, weights = f"monai:{bundle}", bundle / "other.safetensors"
    weights.touch()
    config = {key: value for key, value in INFERENCE.items() if "network" not in key and key != "preprocessing"}
    (bundle / "configs/inference.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"the configuration of monai:.* defines no network_def"):
        load_model(spec)
    with pytest.raises(DataError, match=r"the configuration of monai:.* defines no preprocessing"):
        load_transform(spec)
    with pytest.raises(ArgumentError, match="expected weights to be None for monai:"):
        load_model(spec, weights)
    configure(bundle, {"preprocessing": 3})
    with pytest.raises(DataError, match=r"expected the preprocessing of monai:.* to be a transform, got 3"):
        load_transform(spec)
    torch.save({"model": network()}, bundle / "models/model.pt")
    with pytest.raises(ModelError, match=r"model.pt holds other objects than tensors and plain values"):
        load_model(spec)
    torch.save({"model": 3}, bundle / "models/model.pt")
    with pytest.raises(ModelError, match=r"expected model.pt to be a state dict of tensors, got none"):
        load_model(spec)
    (bundle / "models/model.pt").unlink()
    with pytest.raises(ModelError, match=r"has no weights: expected .*models/model.pt. Of a bundle with"):
        load_model(spec)
    (bundle / "configs/inference.json").write_text("{")
    with pytest.raises(ModelError, match=r"inference.json failed: "):
        load_model(spec)


def test_metadata_may_be_missing_or_odd(bundle: Path) -> None:
    for known in ({}, {"network_data_format": {"inputs": 3, "outputs": {"pred": {"channel_def": ["a"]}}}}):
        (bundle / "configs/metadata.json").write_text(json.dumps(known))
        assert class_names(load_model(f"monai:{bundle}")) == ()
    (bundle / "configs/metadata.json").unlink()
    assert class_names(load_model(f"monai:{bundle}")) == ()


def test_another_folder_is_no_bundle(tmp_path: Path) -> None:
    for load in (from_bundle, load_model):
        with pytest.raises(ArgumentError, match=r"expected model to be the folder of a MONAI bundle, with configs/inf"):
            load(f"monai:{tmp_path}")
    with pytest.raises(ArgumentError, match=r"expected transform to be the folder of a MONAI bundle"):
        load_transform(f"monai:{tmp_path}")
    with pytest.raises(ArgumentError, match="expected transform to be monai:FOLDER where the model is no monai: model"):
        load_transform("monai", "digits")
