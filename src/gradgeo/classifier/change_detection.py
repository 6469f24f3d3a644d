"""Noticing that a model is no longer what it was when a copy of it was made."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_OWN = set(vars(nn.Module())) - {"training"}
_VALUES = {int, float, str, bool, type(None), torch.dtype, torch.device}
_SUMMED = {torch.float32, torch.float64, torch.int32, torch.int64}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, eq=False)
class ModelState:
    """Structure, settings, hooks and weights of a module at one moment."""

    structure: list[Any]
    sums: Tensor

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ModelState) and self.structure == other.structure and torch.equal(self.sums, other.sums)
        )


def state_of(model: nn.Module) -> ModelState | None:
    """The state of `model`, or None where a change might not show or a copy would keep the model alive.

    Weights are compared by address, version and sum: writing through `.data` moves neither of the first two. Settings
    are the attributes of each module: plain values by value, other objects by identity.

    Cost: one reading of the weights.
    """
    structure: list[Any] = []
    tensors: list[Tensor] = []
    for name, module in model.named_modules(remove_duplicate=False):
        own = vars(module)
        if isinstance(module, torch.jit.ScriptModule) or any(map(own.__getitem__, _HOOKS)):
            return None  # what a script holds or a hook closes over cannot be watched
        tensors += [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        settings: list[Any] = []
        for key, value in own.items():
            if key not in _OWN:
                settings.append((key, value if type(value) in _VALUES else _plain(value)))
                if isinstance(value, Tensor):
                    tensors.append(value)
        structure.append((name, id(module), type(module), id(type(module).forward), settings))
    try:
        structure += [(t.data_ptr(), t._version, t.shape, t.stride(), t.dtype, t.device) for t in tensors]
        with torch.inference_mode(False), torch.no_grad():
            return ModelState(structure, _sums(tensors))
    except (RuntimeError, TypeError):  # inference tensors keep no version, quantised ones no sum
        return None


def weights_state(model: nn.Module) -> ModelState | None:
    """What shows that the weights of `model` changed where `state_of` cannot watch it: shapes, types and sums.

    None where they have no sums, as those of quantised models.
    """
    tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
    try:
        with torch.inference_mode(False), torch.no_grad():
            return ModelState([(t.shape, t.dtype, t.device) for t in tensors], _sums(tensors))
    except (RuntimeError, TypeError):
        return None


def _sums(tensors: list[Tensor]) -> Tensor:
    """The sum of each, float64 on the CPU, those of one type and device together: a single input waits for this."""
    sums: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.dtype in _SUMMED:
            total = tensor.sum()
        else:
            real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            total = real.sum(dtype=torch.float32 if real.itemsize < 4 else None)
        sums.setdefault((total.dtype, total.device), []).append(total)
    return torch.cat([torch.empty(0).double(), *(torch.stack(some).double().cpu() for some in sums.values())])


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _VALUES:
        return value
    if kind in (tuple, list, set):
        return kind, [_plain(v) for v in value]
    if kind is dict:
        return [(_plain(k), _plain(v)) for k, v in value.items()]
    return id(value)
