"""The caller's model as a pure function from inputs to logits that leaves no trace on the caller's side."""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.errors import ModelError, expected

Model = nn.Module | Callable[[Tensor], Any]


class Classifier:
    """A private, frozen, eval-mode view of `model`; the weights are shared, everything else is its own.

    Working on a copy rather than switching the caller's model to eval mode and back keeps the caller's mode, hooks,
    `requires_grad` and `.grad` as they are even after an exception or in other threads. Parameters do not require
    grad, which halves the cost of a backward pass to the input.

    A model that cannot be copied (`copy.deepcopy` fails) is used as it is and must be in eval mode.
    """

    def __init__(self, model: Model) -> None:
        if not callable(model):
            raise expected("model", "a torch.nn.Module or a function x -> logits", model)
        copied = _private_copy(unwrapped(model)) if isinstance(model, nn.Module) else None
        if copied is None:
            _refuse_training(model)
        self.module: Model = model if copied is None else copied
        self.recurrent = copied is not None and any(isinstance(m, nn.RNNBase) for m in copied.modules())
        tensors = () if copied is None else (*copied.parameters(), *copied.buffers())
        floating = [t for t in tensors if t.is_floating_point()]
        self.dtype = floating[0].dtype if floating else None
        self.device = floating[0].device if floating else None

    def prepare(self, x: Tensor) -> Tensor:
        """`x` checked and brought to the model's device and floating-point type (a copy is not made here)."""
        if not isinstance(x, Tensor):
            raise expected("x", "a tensor", x, "Use torch.from_numpy for arrays.")
        if not x.is_floating_point():
            raise expected(
                "x",
                "a floating-point tensor",
                x,
                "Images: x / 255. Token ids: pass the input embeddings instead.",
            )
        if x.ndim < 2:
            raise expected("x", "of shape (N, *input)", x, "For a single input add the batch axis: x[None].")
        return x.to(device=self.device or x.device, dtype=self.dtype or x.dtype)

    def judge(self, x: Tensor) -> "Judged":
        """Logits of `x` without gradients."""
        x = self.prepare(x)
        with traceless(x, recurrent=self.recurrent), torch.no_grad():
            clean, finite = replace_unusable(x)
            logits = self(clean)
        return Judged(logits, finite & logits.isfinite().all(1))

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, C) of a prepared batch; tuples, dicts and Hugging Face outputs are unpacked.

        To be called within `traceless`, for it seeds the random state that a stochastic model draws from.
        """
        _seed(x.device)
        try:
            output = self.module(x)
        except Exception as error:  # any failure inside foreign code becomes one message with the shape in it
            raise ModelError(
                f"the model failed on inputs of shape {_batch(x)}, {x.dtype}: {type(error).__name__}: {error}"
            ) from error
        logits = _unpack(output)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            raise ModelError(
                f"expected the model to return logits of shape (N, C), got {_shape(logits)}. "
                "Wrap the model so that it returns one row of class scores per input."
            )
        if logits.shape[1] < 2:
            raise ModelError(
                "expected the model to return at least 2 class scores, got 1: the maps of a single score are all "
                "parallel, so there is no geometry between classes to look at."
            )
        return logits


@dataclass(frozen=True)
class Judged:
    """The logits (N, C) of a batch, and whether each row's input and logits are finite (N,)."""

    logits: Tensor
    usable: Tensor


def replace_unusable(x: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of `x` with zeros for samples that hold NaN or infinity, so that they cannot disturb others; and (N,)
    which samples were left as they were."""
    finite = torch.isfinite(x).flatten(1).all(1)
    return torch.where(finite.view(-1, *[1] * (x.ndim - 1)), x, 0), finite


def _unpack(output: Any) -> Any:
    """The logits inside what models return."""
    logits = getattr(output, "logits", None)
    if logits is not None:
        return logits
    if isinstance(output, Mapping):
        return output.get("logits", next(iter(output.values()), None))
    if isinstance(output, tuple | list) and output:
        return output[0]
    return output


def _batch(x: Tensor) -> str:
    return f"({', '.join(['N', *map(str, x.shape[1:])])})"


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel or torch.compile."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def _private_copy(model: nn.Module) -> nn.Module:
    """`model` with the same weight memory and its own structure, buffers, mode and `requires_grad`."""
    with torch.inference_mode(False), torch.no_grad():  # a copy made in inference mode could not be differentiated
        try:
            memo: dict[int, Any] = {}
            for parameter in model.parameters():
                data = parameter.detach()
                data = data.clone() if data.is_inference() else data
                memo[id(parameter)] = nn.Parameter(data, requires_grad=False)
            for buffer in model.buffers():
                memo[id(buffer)] = buffer.detach().clone()
            for module in model.modules():  # weights computed from others, as by weight_norm or pruning
                for value in vars(module).values():
                    if isinstance(value, Tensor) and not value.is_leaf:
                        memo[id(value)] = value.detach()
            copied = copy.deepcopy(model, memo)
            if set(model.modules()) & set(copied.modules()):
                raise TypeError("its copy shares modules with it")
        except Exception as error:  # copying fails in as many ways as there are models
            if any(module.training for module in model.modules()):
                raise ModelError(
                    f"the model is in training mode and cannot be copied ({type(error).__name__}: {error}). "
                    "Call model.eval() first."
                ) from error
            return model
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied.eval()


def _refuse_training(function: Callable[[Tensor], Any]) -> None:
    """A function cannot be copied, so what it calls must be in eval mode where that matters."""
    try:
        reached = inspect.getclosurevars(inspect.unwrap(function))
    except TypeError:  # no Python function
        return
    for name, module in {**reached.globals, **reached.nonlocals}.items():
        if isinstance(module, nn.Module) and any(
            part.training and _acts_in_training(part) for part in module.modules()
        ):
            raise expected("model", f"a function of modules in eval mode ({name} is not)", function, f"{name}.eval()")


def _acts_in_training(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd | nn.RReLU)


def _alone() -> bool:
    """Whether the global random state is ours to change: other threads would draw from it too."""
    return threading.active_count() == 1


def _seed(device: torch.device) -> None:
    if _alone():
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(0)


_CUDNN = threading.RLock()  # its flags are global


@contextmanager
def traceless(x: Tensor, *, recurrent: bool = False) -> Iterator[None]:
    """Gradients on, autocast off, TF32 off, whatever the caller's context; random state the same for every call.

    The global random state, seeded at each forward pass, is put back afterwards; with other threads running it is left
    alone.
    """
    cuda = x.device.type == "cuda"
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(x.device.type, enabled=False))
        if _alone():
            stack.enter_context(torch.random.fork_rng(devices=[x.device] if cuda else []))
        if cuda:
            cudnn = torch.backends.cudnn
            stack.enter_context(_CUDNN)
            # TF32 convolutions flip the sign of small gradient entries; cuDNN's recurrent backward wants training mode.
            stack.enter_context(
                cudnn.flags(
                    enabled=cudnn.enabled and not recurrent,
                    benchmark=cudnn.benchmark,
                    deterministic=cudnn.deterministic,
                    allow_tf32=False,
                )
            )
        yield


def looks_like_probabilities(logits: Tensor) -> bool:
    """Whether every finite row is non-negative and sums to one: softmax was applied already."""
    rows = logits[torch.isfinite(logits).all(1)].double()
    tolerance = 1e-2 if logits.dtype in (torch.bfloat16, torch.float16) else 1e-4
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < tolerance).all())
