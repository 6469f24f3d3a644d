"""The caller's model as a pure function from inputs to logits that leaves no trace on the caller's side."""

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.classifier.change_detection import ModelState, state_of
from gradgeo.classifier.isolated_copy import Model as Model
from gradgeo.classifier.isolated_copy import isolated_copy, unwrapped
from gradgeo.classifier.logits import Draws, logits_of
from gradgeo.classifier.microbatch import AdaptiveBatch
from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.classifier.prepared import PreparedBatch, clean, refuse_sparse
from gradgeo.classifier.randomness import is_single_threaded
from gradgeo.errors import ModelError, choice, expected

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""What backward passes compute in: None for the model's own type."""


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
        original = unwrapped(model) if isinstance(model, nn.Module) else None
        copied = None if original is None else isolated_copy(original)
        if copied is None:
            _refuse_training(model)
        self.module: Model = model if copied is None else copied
        self.private = copied is not original
        """Whether `module` is a copy of the caller's."""
        self.state: ModelState | None = None
        """Of the caller's model when this was made, where `of` made it and can watch the model."""
        self._optimized: dict[torch.dtype | None, OptimizedModel] = {}
        self._optimizing = threading.Lock()
        self._draws = Draws()
        self._turn = threading.RLock()  # a model may keep in itself what it is doing
        self.recurrent = copied is not None and any(isinstance(m, nn.RNNBase) for m in copied.modules())
        tensors = () if copied is None else (*copied.parameters(), *copied.buffers())
        floating = [t for t in tensors if t.is_floating_point()]
        self.dtype = floating[0].dtype if floating else None
        self.device = floating[0].device if floating else None

    @classmethod
    def of(cls, model: Model) -> "Classifier":
        """The classifier of `model`: that of the last call, unless `model` changed since (see `change_detection`).

        A classifier is its own.
        """
        if isinstance(model, Classifier):
            return model
        if isinstance(model, nn.Module):
            state = state_of(unwrapped(model))
            if state is not None:
                return _cached(unwrapped(model), state)
        return cls(model)

    @property
    def draws(self) -> bool:
        """Whether the model draws random numbers, which its first pass shows; True before."""
        return self._draws.possible

    def optimized(self, batch: PreparedBatch, precision: str = "float32") -> OptimizedModel:
        """The copy to differentiate many times, made at the first `batch`; its weights are its own.

        To be called within `preserve_state`.

        Args:
            precision: one of `PRECISIONS`, what it computes in. Other than "float32" it takes a model that can be
                copied, and `exact` of what is returned computes in the model's own type.
        """
        choice("precision", precision, tuple(PRECISIONS))
        dtype = PRECISIONS[precision]
        if dtype is not None and not self.private:
            raise expected("precision", "'float32' for a function or a model that cannot be copied", precision)
        exact = None if dtype is None else self.optimized(batch)
        with self._optimizing:
            if dtype not in self._optimized:
                with self._turn:  # a copy of a model at work may be of no use
                    model = self._optimize(batch, dtype)
                model.exact = exact
                if any(other.batchable is False for other in self._optimized.values()):
                    model.batchable = False  # known, and said, already
                self._optimized[dtype] = model
            return self._optimized[dtype]

    def _optimize(self, batch: PreparedBatch, dtype: torch.dtype | None) -> OptimizedModel:
        """Where memory does not take the trial of several inputs, one has to do; of none, a zero input stands in."""
        x = batch.x.detach() if len(batch) else batch.x.new_zeros(1, *batch.x.shape[1:])

        def attempt(rows: slice) -> OptimizedModel:
            return OptimizedModel(self.module, private=self.private, x=x[rows], dtype=dtype)

        return next(AdaptiveBatch(len(x))(len(x), attempt))

    def prepare(self, x: Tensor) -> PreparedBatch:
        """`x` checked, brought to the model's device and floating-point type, and cleaned; once for each batch."""
        if not isinstance(x, Tensor):
            raise expected("x", "a tensor", x, "Use torch.from_numpy for arrays.")
        if not x.is_floating_point():
            raise expected(
                "x",
                "a floating-point tensor",
                x,
                "Images: x / 255. Token ids: pass the input embeddings instead, or texts to gradgeo.text(model, "
                "tokenizer).",
            )
        if x.ndim < 2:
            raise expected("x", "of shape (N, *input)", x, "For a single input add the batch axis: x[None].")
        refuse_sparse(x)
        if x.is_meta or 0 in x.shape[1:]:
            raise expected("x", "inputs with at least one number each", x)
        if self.device is not None and self.device.type == "meta":
            raise ModelError("the model is on the meta device, without weights. Load them first.")
        return clean(x.to(device=self.device or x.device, dtype=self.dtype or x.dtype))

    def logits(self, x: Tensor) -> "LogitsResult":
        """Logits of `x` without gradients."""
        batch = self.prepare(x)
        with preserve_state(batch.x, recurrent=self.recurrent), torch.no_grad():

            def run(rows: slice) -> Tensor:
                return self(batch.x[rows].clone())  # the model may work in place

            logits = torch.cat(list(AdaptiveBatch(max(1, len(batch)))(len(batch), run)))  # (N, C)
        return LogitsResult(logits, batch.usable & logits.isfinite().all(1))

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, C) of a prepared batch; tuples, dicts and Hugging Face outputs are unpacked.

        To be called within `preserve_state`. One thread at a time; those of `optimized` run together where the model
        writes nothing into itself.
        """
        with self._turn:
            return logits_of(self.module, x, self._draws)


@dataclass(frozen=True)
class LogitsResult:
    """The logits of a batch."""

    logits: Tensor
    """(N, C)."""
    usable: Tensor
    """(N,) bool: whether every entry of a row's input and of its logits is finite."""


CACHED = 4
"""Models whose classifiers are kept from call to call: copying, watching and folding one takes longer than a sample."""

_CACHE: list[tuple[weakref.ref[nn.Module], ModelState, Classifier]] = []
_CACHE_LOCK = threading.RLock()  # a model may die, and its entry go, while this thread holds it


def _cached(model: nn.Module, state: ModelState) -> Classifier:
    with _CACHE_LOCK:
        for entry in _CACHE:
            if entry[0]() is model and entry[1] == state:
                return entry[2]
    classifier = Classifier(model)
    classifier.state = state
    if classifier.module is not model:  # else it would keep the model alive
        with _CACHE_LOCK:
            _CACHE[:] = [e for e in _CACHE if e[0]() is not None and e[0]() is not model][1 - CACHED :]
            _CACHE.append((weakref.ref(model, _forget), state, classifier))
    return classifier


def _forget(reference: "weakref.ref[nn.Module]") -> None:
    with _CACHE_LOCK:
        _CACHE[:] = [entry for entry in _CACHE if entry[0] is not reference]


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


_CUDNN = threading.RLock()  # its flags are global


@contextmanager
def preserve_state(x: Tensor, *, recurrent: bool = False) -> Iterator[None]:
    """Gradients on, autocast off, TF32 off, whatever the caller's context.

    A stochastic model draws from generators of its own (`randomness`). For what these do not catch the global random
    state is seeded at each forward pass and put back afterwards, unless other threads are running.
    """
    cuda = x.device.type == "cuda"
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(x.device.type, enabled=False))
        if is_single_threaded():
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
    if bool(((logits < 0) & (logits > -torch.inf)).any()):
        return False
    rows = logits[torch.isfinite(logits).all(1)].double()
    tolerance = 1e-2 if logits.dtype in (torch.bfloat16, torch.float16) else 1e-4
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < tolerance).all())
