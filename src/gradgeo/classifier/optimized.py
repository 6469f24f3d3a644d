"""A copy to be differentiated many times: BatchNorm folded into layers, channels last, its linear head known."""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradgeo.classifier.change_detection import state_of
from gradgeo.classifier.conv_kernels import freeze
from gradgeo.classifier.forward_watch import NORMS, ForwardWatch
from gradgeo.classifier.isolated_copy import Model, isolated_copy
from gradgeo.classifier.layers import LayerOutputs
from gradgeo.classifier.linear_kernels import freeze_linear, wide
from gradgeo.classifier.logits import Draws, logits_of

TRIAL = 8
"""Inputs on which a changed copy must give the logits of the unchanged one."""

AGREEMENT = {torch.float32: 1e-4, torch.float64: 1e-10}
"""How far the logits of copy and model may be apart, relative to the largest; in other types nothing is folded.

Folding multiplies two float32 weights, whose products round otherwise than the two layers did: 1e-6 on ResNets."""


FUSED_WITHOUT_GRAPH = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.RNNBase, torch.jit.ScriptModule)
"""What takes other kernels where nothing is to be differentiated, and does not call layers of its own."""


class ForwardPass(NamedTuple):
    """What a pass over N inputs gives."""

    logits: Tensor
    """(N, C)."""
    features: Tensor | None
    """(N, F) that enter the head; None without one."""
    makes_logits: bool
    """Whether the head makes the logits of the features, so that d logits = W d features."""
    layers: tuple[Tensor, ...]
    """(N, F) of each of `OptimizedModel.layers`, averaged over positions, where asked for; else none."""


class OptimizedModel:
    """A model to be differentiated many times.

    Args:
        model: a private copy of the caller's module, of which a further copy is changed; or, where there is none, the
            caller's own model, which is used as it is.
        private: whether `model` is such a copy.
        x: a prepared batch, whose first inputs are the trial. To be called within `classifier.preserve_state`.
        dtype: what the finished copy computes in, if not in the model's own type; only a private copy can.
        traced: whether it is to be traced: its layers are then PyTorch's own, and channels stay where they are.

    BatchNorm is folded where a layer's output, untouched, is what enters it. That is seen by watching one forward pass
    rather than by tracing, which many models refuse; a copy whose logits then differ is dropped for an unchanged one.
    """

    def __init__(
        self,
        model: Model,
        *,
        private: bool,
        x: Tensor,
        dtype: torch.dtype | None = None,
        traced: bool = False,
    ) -> None:
        self.model = model
        self.head: nn.Linear | None = None
        """The layer whose output is the logits."""
        self.weight: Tensor | None = None
        """The weight (C, F) of `head`, in the model's own type."""
        self.batchable: bool | None = None
        """Whether one backward pass for several cotangents works; None until tried."""
        self.widest: dict[tuple[int, ...], int] = {}
        """Entries per sample of the largest input of a convolution, by the shape of an input; 0 without any."""
        self.exact: OptimizedModel | None = None
        """The copy that computes in the model's own type, for logits, where this one does not."""
        self.dtype = dtype
        self._classes = 0
        self.activations = 0
        """Entries per sample of the outputs of its layers, all that a graph of it holds; 0 if not known."""
        modules = model.modules() if isinstance(model, nn.Module) else ()
        self.fuses_without_graph = any(isinstance(m, FUSED_WITHOUT_GRAPH) for m in modules)
        """Whether a pass that keeps no graph may leave layers out."""
        self.layers = LayerOutputs([])
        """Of the whole model, up to six; none where it is a function or cannot be copied."""
        self._channels_last = False
        self._calls = threading.local()
        self._draws = Draws()
        self._turn: AbstractContextManager[Any] = threading.RLock()
        """What a thread holds during a forward pass: a lock, unless the trial wrote nothing into the model."""
        if isinstance(model, nn.Module) and any(isinstance(m, nn.RNNBase) for m in model.modules()):
            self.batchable = False
        if private and isinstance(model, nn.Module):
            with torch.no_grad():
                self._optimize(model, x[:TRIAL], traced=traced)
        if self.head is not None:
            self.weight = self.head.weight.detach()
        if dtype is not None and isinstance(self.model, nn.Module):
            self.model.to(dtype)
        if self.head is not None:
            self.head.register_forward_hook(self._note_call)
        if private and isinstance(self.model, nn.Module):
            for module in self.model.modules():
                if isinstance(module, NORMS):
                    module.register_forward_hook(_match_grad_layout)

    def __call__(self, x: Tensor, *, layers: bool = False) -> ForwardPass:
        """A pass over inputs (N, *input), with the outputs of `layers` if asked for."""
        with self._turn, self.layers.noted(layers) as noted:
            logits = logits_of(self.model, self._to_memory_format(x), self._draws)
        outputs = self.layers.of(noted, logits.shape[0])
        call, self._calls.last = getattr(self._calls, "last", None), None
        if call is None:
            return ForwardPass(logits, None, False, outputs)
        features, version, output = call
        # Equal values are not enough where gradients count: what comes after the head may have a derivative of its own.
        same = output is logits or (not torch.is_grad_enabled() and torch.equal(output, logits))
        unchanged = features._version == version  # not written to in place after the head read them
        return ForwardPass(logits, features if unchanged else None, same and unchanged, outputs)

    @torch.no_grad()
    def classes(self, x: Tensor) -> int:
        """The number of classes; a forward pass of one input of `x` is needed only where there was no trial."""
        if not self._classes:
            with self._turn:
                self._classes = logits_of(self.model, x[:1].clone()).shape[1]
        return self._classes

    def _to_memory_format(self, x: Tensor) -> Tensor:
        return _channels_last(x) if self._channels_last else x

    def _note_call(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._calls.last = (inputs[0], inputs[0]._version, output) if output.ndim == 2 else None

    def _optimize(self, model: nn.Module, x: Tensor, *, traced: bool) -> None:
        plain = isolated_copy(model)
        watch = ForwardWatch(plain)
        before = state_of(plain)
        logits = watch.run(x, self._draws)  # (n, C)
        if before is not None and state_of(plain) == before:  # so that threads need not wait for each other
            self._turn = nullcontext()
        self.model, self.head = plain, watch.head_of(logits)
        self._classes, self.activations = logits.shape[1], watch.entries // len(x)
        names = {layer: name for name, layer in plain.named_modules()}
        # What a norm gives is the same where it is folded, and what the layer before it gives is not.
        noted = [
            (names[watch.norm_after.get(layer, layer)], not isinstance(layer, nn.Linear))
            for layer in watch.spread_layers(x, self._draws)
        ]
        if logits.dtype in AGREEMENT:
            pairs = [(names[layer], names[norm]) for layer, norm in watch.foldable()]
            signals = [names[layer] for layer in watch.last_signals()]
            self._change(model, x, logits, pairs, signals, traced=traced)
        if self.head is not None and self.model is not plain:
            head = self.model.get_submodule(names[self.head])
            self.head = head if isinstance(head, nn.Linear) else None
        self.layers = LayerOutputs([(self.model.get_submodule(name), convolves) for name, convolves in noted])

    def _change(
        self,
        model: nn.Module,
        x: Tensor,
        logits: Tensor,
        pairs: list[tuple[str, str]],
        signals: list[str],
        *,
        traced: bool,
    ) -> None:
        """Take a changed copy of `model` in the place of the plain one, if one gives its logits.

        Args:
            pairs: names of layers and of the norms to be folded into them.
            signals: names of layers whose outputs are signals that enter no convolution.
        """
        channels_last = not traced and _gains_from_channels_last(model)
        products = not traced and bool(wide(model))
        # From most to least that may be changed; the first copy whose logits agree is taken.
        for fold, last in dict.fromkeys([(bool(pairs), channels_last), (bool(pairs), False), (False, channels_last)]):
            if not fold and not last and not products:
                continue
            changed = isolated_copy(model)
            if products:
                freeze_linear(changed)
            _rewrite(changed, pairs if fold else [], channels_last=last, traced=traced)
            for name in signals if last else ():
                changed.get_submodule(name).register_forward_hook(_grad_to_channels_last)
            # What a trace would have to prove is tested instead: a folded pair that was read elsewhere shows here.
            if self._agrees(changed, x, logits, last) and not (last and _changes_grad_layout(changed, x)):
                self.model, self._channels_last = changed, last
                return

    def _agrees(self, model: nn.Module, x: Tensor, logits: Tensor, channels_last: bool) -> bool:
        try:
            ours = logits_of(model, _channels_last(x.clone()) if channels_last else x.clone())
        except Exception:  # a view of a channels-last tensor, a normalisation's parameter read elsewhere
            return False
        off = (ours - logits).abs().max()
        return bool(off <= AGREEMENT[logits.dtype] * logits.abs().max())


def _channels_last(x: Tensor) -> Tensor:
    """Images (N, channels, height, width) in that order; what is no image as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _gains_from_channels_last(model: nn.Module) -> bool:
    """On CPUs: oneDNN converts what lies otherwise at each layer, there and back. CUDA's float32 kernels want channels
    first.

    A backward pass of a ResNet-20 over 64 images took 112 ms instead of 188 with AVX-512, 121 instead of 145 with AVX2
    and 507 instead of 556 with SSE4.1 (one thread of a Xeon of 2021); over a single image 3.7 to 4.7 ms either way.
    """
    return any(isinstance(m, nn.Conv1d | nn.Conv2d) and m.weight.device.type == "cpu" for m in model.modules())


def _rewrite(model: nn.Module, pairs: list[tuple[str, str]], *, channels_last: bool, traced: bool) -> None:
    for layer, norm in pairs:
        _fold(model, model.get_submodule(layer), model.get_submodule(norm))
    if channels_last:
        model.to(memory_format=torch.channels_last)
    freeze(model, channels_last=channels_last, traced=traced)


def _fold(model: nn.Module, layer: Any, norm: Any) -> None:
    """Put the affine map of `norm` into `layer`, in float64, and the identity in the place of `norm`.

    norm(layer(x)) = s (W x + b - mean) + beta = (s W) x + s (b - mean) + beta with s = gamma / sqrt(var + eps).
    `torch.nn.utils.fusion` does the same; but it takes no linear layer with a norm that has no affine map, and its
    biases, whose difference to the mean is rounded otherwise, move scores of fitted detectors.
    """
    scale = (norm.running_var.double() + norm.eps).rsqrt()  # (outputs,)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale if layer.bias is None else (layer.bias - norm.running_mean) * scale
    shift = shift if norm.bias is None else shift + norm.bias
    weight = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))  # (outputs, inputs, *kernel)
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype), requires_grad=False)
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, nn.Identity())


def _match_grad_layout(norm: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """Give the gradient that comes back to a BatchNorm the memory layout of its output.

    PyTorch (2.6 to 2.14, on CPUs) misreads the strides of a batch of one where a token mixer follows
    (`flatten(2).transpose(1, 2)`), and computes a wrong gradient without a warning; batched backward passes are right.
    """
    if isinstance(output, Tensor) and output.requires_grad and output.shape[0] == 1:
        last = output.ndim == 4 and output.is_contiguous(memory_format=torch.channels_last)
        form = torch.channels_last if last and not output.is_contiguous() else torch.contiguous_format

        def matched(above: Tensor) -> Tensor:
            batched = torch._C._functorch.is_batchedtensor(above)
            return above if batched else above.contiguous(memory_format=form)

        output.register_hook(matched)


def _grad_to_channels_last(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """Give the gradient that comes back the layout of the outputs of our convolutions of signals, channels last: an
    elementwise backward pass over two layouts takes PyTorch many times as long."""
    if isinstance(output, Tensor) and output.requires_grad and output.ndim == 3:
        output.register_hook(_channels_last_signal)


def _changes_grad_layout(model: nn.Module, x: Tensor) -> bool:
    """Whether a convolution of signals gets its gradient in another layout than its output has: elementwise layers
    in between then take many times as long."""
    layouts: list[bool] = []

    def listen(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        output.register_hook(lambda above: layouts.append(above.mT.is_contiguous()))

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv1d)]
    if not layers:
        return False
    handles = [layer.register_forward_hook(listen) for layer in layers]
    try:
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(logits_of(model, leaf.clone()).sum(), leaf)
    except Exception:  # said where gradients are asked for
        return False
    finally:
        for handle in handles:
            handle.remove()
    return not all(layouts)


def _channels_last_signal(above: Tensor) -> Tensor:
    if torch._C._functorch.is_batchedtensor(above):
        return above.mT.contiguous().mT
    return above.unsqueeze(2).contiguous(memory_format=torch.channels_last).squeeze(2)
