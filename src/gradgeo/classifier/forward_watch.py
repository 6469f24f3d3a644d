"""Watching one forward pass of a model: which of its layers belong together, and which may be looked at."""

from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.classifier.layers import KINDS, one_row_each, spaced, undecided
from gradgeo.classifier.logits import Draws, logits_of

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class ForwardWatch:
    """What enters and leaves the layers of interest during one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._output_of: dict[int, tuple[nn.Module, Tensor, int]] = {}  # by id: layer, output, version
        self._linear: list[tuple[nn.Linear, Tensor]] = []
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        self._calls: list[nn.Module] = []
        self._signals: list[tuple[nn.Module, Tensor]] = []
        self._convolved: list[Tensor] = []
        self._outputs: dict[nn.Module, Tensor] = {}  # the last of each layer, in the order of first calls
        self.norm_after: dict[nn.Module, nn.Module] = {}
        """The BatchNorm that each layer's output enters."""
        self.entries = 0
        """Entries of the outputs of all layers."""

    def run(self, x: Tensor, draws: Draws) -> Tensor:
        """The logits (n, C) of `x`."""
        handles = []
        for module in self._model.modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                continue
            hooked = _hooked(module)
            if not any(True for _ in module.children()):
                handles.append(module.register_forward_hook(self._count))
            if isinstance(module, KINDS):
                handles.append(module.register_forward_hook(self._note_output))
            if isinstance(module, NORMS):
                handles.append(module.register_forward_pre_hook(self._note_norm))
            if isinstance(module, nn.Conv1d):
                handles.append(module.register_forward_pre_hook(self._convolve))
            if isinstance(module, nn.Linear) or (type(module) in KINDS and not hooked):
                handles.append(module.register_forward_hook(self._after))
            elif type(module) in NORMS and module.running_mean is not None and not hooked:
                handles.append(module.register_forward_pre_hook(self._before))
        try:
            return logits_of(self._model, x.clone(), draws)
        finally:
            for handle in handles:
                handle.remove()

    def _after(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._calls.append(layer)
        if isinstance(output, Tensor):
            self._output_of[id(output)] = (layer, output, output._version)  # while it is held, no other has its id
            if isinstance(layer, nn.Linear) and output.ndim == 2:
                self._linear.append((layer, output))

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            self.entries += output.numel()
            if output.ndim == 3 and not any(True for _ in module.parameters()):
                self._signals.append((module, output))

    def _note_output(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            self._outputs[layer] = output

    def _note_norm(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.norm_after |= {layer: norm for layer, output in self._outputs.items() if inputs and output is inputs[0]}

    def _convolve(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._convolved += [x for x in inputs if isinstance(x, Tensor)]

    def _before(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._calls.append(norm)
        known = self._output_of.get(id(inputs[0])) if inputs else None
        if known is not None:
            layer, output, version = known
            if output._version == version and _weighted(layer):  # else something wrote into the output since
                self._pairs.append((layer, norm))

    def head_of(self, logits: Tensor) -> nn.Linear | None:
        """The last linear layer whose output is the logits."""
        heads = [layer for layer, output in self._linear if output.shape == logits.shape and output.equal(logits)]
        return heads[-1] if heads else None

    def last_signals(self) -> list[nn.Module]:
        """Layers without weights whose outputs are signals (N, channels, length) that enter no convolution."""
        if not self._convolved:
            return []
        return [layer for layer, output in self._signals if not any(output is x for x in self._convolved)]

    def spread_layers(self, x: Tensor, draws: Draws) -> list[nn.Module]:
        """Layers throughout the model whose outputs have a row for each input of a batch; `x` are inputs of the pass
        watched."""
        layers = one_row_each(self._outputs, len(x))
        if undecided(self._outputs, len(x)):
            other = ForwardWatch(self._model)
            other.run(x[:1].expand(len(x) + 1, *x.shape[1:]), draws)
            more = one_row_each(other._outputs, len(x) + 1)
            layers = [layer for layer in layers if layer in more]
        return spaced(layers)

    def foldable(self) -> list[tuple[nn.Module, nn.Module]]:
        """Layers and the BatchNorm that follows each, both called once."""
        return [pair for pair in self._pairs if all(self._calls.count(module) == 1 for module in pair)]


def _weighted(layer: nn.Module) -> bool:
    """Whether its weight is its own, not computed at each call as by weight_norm."""
    return type(layer) in KINDS and layer._parameters.get("weight") is not None


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
