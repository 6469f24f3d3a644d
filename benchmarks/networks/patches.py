"""Small networks of the kinds that large ones are: a ViT (Dosovitskiy et al. 2021) and a ConvNeXt (Liu et al. 2022)."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.making import Network
from benchmarks.networks.reading import image_file, images
from benchmarks.networks.training import fit, mirrored

WIDTH = 64
HEADS = 4
DEPTH = 4


class AttentionBlock(nn.Module):
    """Self-attention and two linear layers, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, width) to tokens."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)  # (N, heads, T, width / heads)
        x = x + self.out(attended.transpose(1, 2).reshape(n, t, width))
        deeper: Tensor = self.mlp(self.norm2(x))
        return x + deeper


class SmallViT(nn.Module):
    """Patches of 4 x 4 pixels of a 28 x 28 grey picture, a class token, four blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.place = nn.Parameter(0.02 * torch.randn(1, 50, WIDTH))
        self.blocks = nn.Sequential(*(AttentionBlock(WIDTH) for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        patches = self.patches(2 * x - 1).flatten(2).transpose(1, 2)  # (N, 49, width)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.place
        logits: Tensor = self.head(self.norm(self.blocks(tokens)[:, 0]))
        return logits


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised over C, at each place."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """A depthwise 7 x 7 convolution, a layer norm and two linear layers, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """As many channels of the same size."""
        rows = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        deeper: Tensor = self.scale * self.mlp(rows)
        return x + deeper.permute(0, 3, 1, 2)


class SmallConvNeXt(nn.Module):
    """Stages of 32, 64 and 128 channels at 16, 8 and 4 pixels of a 32 x 32 picture."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 2, 2), ChannelNorm(32), ConvNeXtBlock(32)]
        for width in (64, 128):
            layers += [ChannelNorm(width // 2), nn.Conv2d(width // 2, width, 2, 2)]
            layers += [ConvNeXtBlock(width), ConvNeXtBlock(width)]
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        logits: Tensor = self.head(self.norm(self.features(2 * x - 1).mean((2, 3))))
        return logits


def _train(data: str, epochs: int, model: nn.Module, folder: Path, few: int | None) -> dict[str, Tensor]:
    x, y = images(folder, data, "train", few)
    fit(model, x, y, epochs=1 if few else epochs, augment=mirrored, decay=0.05)
    return model.state_dict()


PATCH_NETWORKS = {
    "vit_fashion": Network(
        kind="transformer",
        trained_on="Fashion-MNIST, 5,000 images",
        licence="Fashion-MNIST: MIT",
        module="patches.py",
        files=lambda folder: [image_file(folder, "fashion_mnist", split) for split in ("train", "test")],
        build=lambda folder: SmallViT(),
        train=partial(_train, "fashion_mnist", 15),
        held_out=lambda model, folder, few: images(folder, "fashion_mnist", "test", few or 5000),
        half=3000,
        size=300,
        far=("mnist", "cifar10"),
        budgets=(0.1, 0.025),
    ),
    "convnext_cifar10": Network(
        kind="ConvNeXt",
        trained_on="CIFAR-10, 5,000 images",
        licence="CIFAR: none stated, free to use with citation",
        module="patches.py",
        files=lambda folder: [image_file(folder, "cifar10", split) for split in ("train", "test")],
        build=lambda folder: SmallConvNeXt(),
        train=partial(_train, "cifar10", 15),
        held_out=lambda model, folder, few: images(folder, "cifar10", "test", few or 5000),
        half=3500,
        size=300,
        near=("cifar100",),
        far=("mnist", "fashion_mnist"),
    ),
}
"""By name."""
