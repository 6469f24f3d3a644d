"""A model that draws random numbers gives the same logits in every call, and draws nothing of the caller's.

PyTorch has one random state for all threads. Seeding it for a model would take numbers from other threads, and leaving
it alone would let the verdict depend on what they draw. So the random operators of a stochastic model are handed a
generator of its own, in this thread alone.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

_LIKE: dict[Any, Callable[..., Tensor]] = {  # filled as PyTorch's own fill theirs, so that the numbers are the same
    aten.rand_like.default: lambda out, generator: out.uniform_(generator=generator),
    aten.randn_like.default: lambda out, generator: out.normal_(generator=generator),
    aten.randint_like.default: lambda out, generator, high: out.random_(0, high, generator=generator),
    aten.randint_like.low_dtype: lambda out, generator, low, high: out.random_(low, high, generator=generator),
}
"""Operators that take no generator."""

_WITH_GENERATOR = {"default": "generator", "low": "low_generator"}
"""Overloads of creating operators that do."""


class SeededDraws(TorchDispatchMode):
    """Within this context random operators draw from generators seeded with 0; those that are given one use that.

    Not caught are TorchScript, and fused operators that take no generator, such as CUDA's dropout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drew = False
        """Whether there were any."""
        self._generators: dict[torch.device, torch.Generator] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch, which asks, would wrap the method below for its compiler, and import that (1.4 s) for one operator.

        A model that `torch.compile` made has imported it, and gives the same logits either way.
        """
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self.drew = True
        if func in _LIKE:
            out = torch.empty_like(args[0], **kwargs)
            return _LIKE[func](out, self._generator(out.device), *args[1:])
        if not any(argument.name == "generator" for argument in func._schema.arguments):
            overload = _WITH_GENERATOR.get(func._overloadname, "")
            func = getattr(func._overloadpacket, overload, func)
        if any(argument.name == "generator" for argument in func._schema.arguments) and not kwargs.get("generator"):
            device = next((a.device for a in args if isinstance(a, Tensor)), kwargs.get("device"))
            kwargs = {**kwargs, "generator": self._generator(torch.device(device or "cpu"))}
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]


def is_single_threaded() -> bool:
    """Whether the global random state is this thread's alone, so that it may be seeded, and put back afterwards."""
    return threading.active_count() == 1


def seed_global_state(device: torch.device) -> None:
    """Seed what `SeededDraws` does not catch, where no other thread sees it."""
    if is_single_threaded():
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(0)
