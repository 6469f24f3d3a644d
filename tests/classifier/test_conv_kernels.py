"""Convolutions of weights that stay: values, gradients and double gradients are PyTorch's own."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradgeo.classifier import conv_kernels as convolution
from gradgeo.classifier.conv_kernels import convolved, freeze

CASES = {
    "1-D": ((2, 3, 19), (6, 3, 5), (2,), (1,), (2,), 1),
    "2-D": ((2, 3, 9, 8), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "strides that leave a rest": ((2, 4, 10, 13), (6, 4, 3, 2), (3, 2), (0, 1), (1, 1), 1),
    "depthwise": ((2, 4, 8, 8), (8, 4 // 4, 3, 3), (2, 2), (1, 1), (1, 1), 4),
    "3-D": ((1, 2, 5, 6, 7), (3, 2, 3, 3, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2), 1),
    "one channel": ((2, 1, 9, 8), (4, 1, 3, 3), (1, 2), (1, 0), (1, 2), 1),
    "patches": ((2, 3, 9, 8), (14, 3, 4, 4), (4, 4), (0, 0), (1, 1), 1),
    "stem": ((1, 3, 8, 9), (5, 3, 7, 7), (2, 2), (3, 3), (1, 1), 1),
}
PLAIN: dict[int, Any] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def made(*shape: int, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


@pytest.mark.grid
@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_are_those_of_pytorch(case: str) -> None:
    shape, weights, *sizes = CASES[case]
    x, weight, bias = made(*shape, grad=True), made(*weights), made(weights[0])
    theirs, ours = PLAIN[len(shape)](x, weight, bias, *sizes), convolved(x, weight, bias, *sizes)
    assert torch.equal(ours, theirs)
    above = made(*theirs.shape)
    expected, found = (torch.autograd.grad(y, x, above, retain_graph=True)[0] for y in (theirs, ours))
    assert torch.allclose(found, expected, atol=1e-12)
    several = torch.stack([above, 2 * above])
    both = torch.func.vmap(lambda v: torch.autograd.grad(ours, x, v, retain_graph=True)[0])(several)
    assert torch.allclose(both, torch.stack([expected, 2 * expected]), atol=1e-12)
    assert torch.autograd.gradgradcheck(lambda x: convolved(x, weight, bias, *sizes), x)


@pytest.mark.parametrize("kernel", [5, 6, 7])
def test_a_stem_of_any_kernel_padding_and_size(kernel: int) -> None:
    for padding, height, width, channels in itertools.product((0, 1, 3), (13, 16), (12, 15), (1, 3)):
        weight, x = made(2, channels, kernel, kernel + 1), made(2, channels, height, width, grad=True)
        theirs = F.conv2d(x, weight, None, 2, padding)
        ours = convolved(x, weight, None, (2, 2), (padding, padding), (1, 1), 1)
        above = made(*theirs.shape)
        expected, found = (torch.autograd.grad(y, x, above)[0] for y in (theirs, ours))
        assert torch.allclose(found, expected, atol=1e-12), (padding, height, width, channels)


def test_a_stem_takes_no_image_at_all() -> None:
    """As when a detector is loaded, whose evidence is measured of an empty batch."""
    empty = convolved(torch.empty(0, 1, 12, 12), torch.rand(8, 1, 5, 5), None, (2, 2), (0, 0), (1, 1), 1)
    assert empty.shape == (0, 8, 4, 4)


def test_a_single_small_image_is_rounded_as_in_a_batch() -> None:
    net = nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.rand(8, 32, 16, 16, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    freeze(net)
    assert torch.equal(net(x[:1]), net(x)[:1])
    assert torch.allclose(net(x[0]), net(x)[0], atol=1e-6)  # without a batch


def signals() -> nn.Sequential:
    """One channel, many, by steps, in groups, of a weight that is computed, and of what is not frozen."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 16, 7, padding=3),
        nn.ReLU(),
        nn.Conv1d(16, 8, 3, stride=2, padding=1, bias=False),
        nn.Tanh(),
        nn.Conv1d(8, 8, 3, dilation=2, groups=4),
        nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 4, 3)),
        nn.Conv1d(4, 4, 3, padding="same", padding_mode="circular"),
    ).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 6])
def test_signals_are_convolved_as_images_of_one_row(
    dtype: torch.dtype, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "ROWS", 2000)
    theirs, ours = signals().to(dtype), signals().to(dtype)
    freeze(ours, channels_last=True)
    assert [i for i, m in enumerate(ours) if isinstance(m, convolution._Frozen1d)] == [0, 2, 4, 6]
    x = torch.randn(n, 1, 60, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    expected, found = theirs(x), ours(x)
    close = {"rtol": 0.0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    assert torch.allclose(found, expected, **close)
    above = torch.randn(3, *expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for v in above:
        gradients = (torch.autograd.grad(y, x, v, retain_graph=True)[0] for y in (expected, found))
        assert torch.allclose(*gradients, **close)
    both = (
        torch.func.vmap(lambda v, y=y: torch.autograd.grad(y, x, v, retain_graph=True)[0])(above)
        for y in (expected, found)
    )
    assert torch.allclose(*both, **close)


def test_what_leaves_a_signals_convolution_lies_channels_last() -> None:
    """Else every elementwise layer behind it mixes two layouts, which takes many times as long."""
    for channels in (1, 3):
        net = nn.Conv1d(channels, 4, 3).requires_grad_(False)
        freeze(net, channels_last=True)
        assert net(torch.rand(5, channels, 9)).stride() == (28, 1, 4)


def test_layers_are_frozen_for_what_becomes_of_them() -> None:
    nets = [nn.Sequential(nn.Conv1d(1, 2, 3), nn.Conv2d(1, 4, 3)) for _ in range(3)]
    freeze(nets[0])
    freeze(nets[1], channels_last=True)
    freeze(nets[2], traced=True)
    assert [type(net[0]) is nn.Conv1d for net in nets] == [True, False, True]
    assert [net[1].narrow for net in nets] == [True, True, False]


def test_only_plain_convolutions_are_frozen_and_say_the_same() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        Own(2, 2, 3),
        nn.Conv2d(2, 2, 3, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, padding="same"),
    )
    kinds = [type(module) for module in net]
    x = torch.rand(2, 1, 9, 9)
    before = net(x)
    freeze(net)
    assert [type(m) is k for m, k in zip(net, kinds, strict=True)] == [False, True, False, False]
    assert torch.equal(net(x), before)
    assert isinstance(net[0], nn.Conv2d)


def test_what_pytorch_would_give_to_other_kernels() -> None:
    assert convolution._is_small_single(torch.zeros(1, 3, 32, 32)) == torch.backends.mkldnn.is_available()
    for other in (torch.zeros(2, 3, 32, 32), torch.zeros(1, 3, 320, 32), torch.zeros(1, 3, 32, 32).double()):
        assert not convolution._is_small_single(other)
