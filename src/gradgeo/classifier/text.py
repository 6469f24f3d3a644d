"""Texts: a token classifier as a function of its embeddings, which have gradients where tokens have none.

An input is (L, D + 1): the embeddings of L tokens, and in the last column which token each is and whether it is one or
padding. The model is called with those tokens and a mask, as its owner calls it, and what it looks up in its embedding
layer is replaced by the D first columns. So padding, positions and masks are what they are in production, whatever step
is taken around an input, and every text is brought to the same length: no other text of a batch has a say.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.classifier.isolated_copy import isolated_copy, unwrapped
from gradgeo.classifier.logits import unpack
from gradgeo.classifier.tokens import Tokenizer
from gradgeo.errors import ModelError, expected, positive_integer, public

MAX_LENGTH = 128
"""Tokens of an input where nobody says how many."""

SCALE = 1 << 12
"""What the last column counts in: steps around an input are far smaller, and float32 holds the product."""

MOST_TOKENS = 1 << 20

MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "attention_mask": lambda mask: mask.long(),
    "mask": lambda mask: mask,
    "padding_mask": lambda mask: ~mask,
    "key_padding_mask": lambda mask: ~mask,
    "src_key_padding_mask": lambda mask: ~mask,
    "lengths": lambda mask: mask.sum(1),
}
"""Parameters of a model that say which tokens are padding, made of (N, L) bool, True for tokens."""


@public
def text(
    model: nn.Module, tokenizer: Any, *, max_length: int | None = None, padding: int | None = None
) -> "TextClassifier":
    """A text classifier as a model of texts, whose embeddings are judged: `Detector(gradgeo.text(model, tokenizer))`.

    `fit`, `predict`, `judge` and `explain` of such a detector take a list of texts.

    Example:
        >>> import torch, gradgeo
        >>> bag = torch.nn.Sequential(torch.nn.EmbeddingBag(100, 8), torch.nn.Linear(8, 3))
        >>> model = gradgeo.text(bag, lambda text: [ord(c) % 100 for c in text], max_length=16)
        >>> model(model.encode(["good", "not bad"])).shape
        torch.Size([2, 3])

    Args:
        model: token numbers to logits, with one `nn.Embedding` or `nn.EmbeddingBag` that looks them up: a Hugging Face
            sequence classifier, or a module whose first parameter takes token numbers (N, L). Of its other parameters
            these are filled in: `attention_mask` (1 for tokens), `mask` (True for tokens), `padding_mask`,
            `key_padding_mask`, `src_key_padding_mask` (True for padding), `lengths` (N,), and `offsets`, with which
            token numbers are one after the other, as `nn.EmbeddingBag` takes them. A model with none of them sees
            padding as it is; a bag never does. It is not changed; weights are shared.
        tokenizer: of Hugging Face (transformers or tokenizers), or a function from a text to token numbers.
        max_length: tokens of an input, L: longer texts are cut as the tokenizer cuts them, shorter ones padded. None:
            128, or as many as the tokenizer or model allows.
        padding: the token number of padding; None for the tokenizer's or the model's, else 0.

    Cost: that of L tokens, however short a text is.

    Raises: ArgumentError for a tokenizer or model of another kind; ModelError for a model whose tokens are looked up
        nowhere or in several layers, or that needs other arguments.
    """
    if not isinstance(model, nn.Module):
        raise expected("model", "a torch.nn.Module", model)
    config = getattr(unwrapped(model), "config", None)
    tokens = Tokenizer(tokenizer, getattr(config, "pad_token_id", None) if padding is None else padding)
    if max_length is None:
        limits = (tokens.longest, getattr(config, "max_position_embeddings", None), MAX_LENGTH)
        max_length = min(limit for limit in limits if isinstance(limit, int) and limit > 0)
    return TextClassifier(model, tokens, positive_integer("max_length", max_length))


class TextClassifier(nn.Module):
    """What `gradgeo.text` makes: embeddings and tokens (N, L, D + 1) to logits (N, C).

    Attributes:
        max_length: tokens of an input, L.
        tokenizer_sha256: of what the tokenizer does; it is part of the model that a detector is bound to.
        class_names: where a Hugging Face configuration names them, else empty.
    """

    unfit_evidence = frozenset({"shifts", "symmetry", "spectrum", "mirrored"})
    """Of pictures and signals, whose entries have neighbours, and where one moved by an entry is the same to people."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__()
        original = unwrapped(model)
        copied = isolated_copy(original)
        if copied is original:
            raise expected("model", "one that copy.deepcopy can copy", model)
        self.max_length = max_length
        self.config = getattr(copied, "config", None)
        self._tokenizer = tokenizer
        self._call = _Call.of(copied)
        probe = _probe(copied, max_length)
        name = _looked_up_in(copied, self._call, probe)
        table = copied.get_submodule(name)
        assert isinstance(table, nn.Embedding | nn.EmbeddingBag)
        if getattr(table, "max_norm", None) is not None:
            raise ModelError(f"the embedding {name} has a max_norm, which changes weights as they are read. Set none.")
        self.lookup = _Bag(table) if isinstance(table, nn.EmbeddingBag) else _Lookup(table)
        if name:
            copied.set_submodule(name, self.lookup)
        self.model = copied if name else self.lookup
        facts = f"{tokenizer.sha256} {max_length} {tokenizer.padding}"
        self.tokenizer_sha256 = tokenizer.sha256
        self.register_buffer("tokenizer", torch.tensor(list(facts.encode()), dtype=torch.uint8))
        self._agrees(original, probe)
        self.eval()

    @property
    def dim(self) -> int:
        """D, of an embedding."""
        return int(self.lookup.table.weight.shape[1])

    @torch.no_grad()
    def encode(self, texts: Sequence[Any]) -> Tensor:
        """Texts as inputs (N, L, D + 1); NaN for what is no text, or has no tokens. Warns of texts that are cut."""
        ids, mask = self._tokenizer(texts, self.max_length)  # (N, L), (N, L)
        weight = self.lookup.table.weight
        ids, mask = ids.to(weight.device), mask.to(weight.device)
        if bool((ids < 0).any()) or bool((ids >= len(weight)).any()):
            raise expected(
                "tokenizer", f"to give numbers within 0..{len(weight) - 1}", f"{int(ids.min())}..{int(ids.max())}"
            )
        x = torch.cat([self.lookup.embedded(ids), _code(ids, mask, weight.dtype)[..., None]], dim=2)  # (N, L, D + 1)
        x[~mask.any(1)] = torch.nan
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of inputs (N, L, D + 1)."""
        if x.ndim != 3 or x.shape[1:] != (self.max_length, self.dim + 1):
            raise expected("x", f"texts, or of shape (N, {self.max_length}, {self.dim + 1})", x)
        ids, mask = _decoded(x[..., -1], len(self.lookup.table.weight))
        with _given(x[..., :-1], ids, mask) as given:
            logits: Tensor = unpack(self._call(self.model, ids, mask))
        if not given.used:
            raise ModelError("the model did not look its tokens up in the layer that it did when it was wrapped.")
        return logits

    def _agrees(self, original: nn.Module, ids: Tensor) -> None:
        """ModelError unless the wrapped model gives the logits of `original`."""
        mask = torch.ones_like(ids, dtype=torch.bool)
        x = torch.cat([self.lookup.embedded(ids), _code(ids, mask, self.lookup.table.weight.dtype)[..., None]], dim=2)
        with torch.no_grad():
            wrapped, own = self(x), unpack(self._call(isolated_copy(original), ids, mask))
        if not torch.allclose(wrapped, own, rtol=1e-3, atol=1e-4 * float(own.abs().max().clamp_min(1e-6))):
            raise ModelError(
                "with its embeddings given the model has other logits than with its tokens. It depends on more."
            )


@dataclass
class _Given:
    """Embeddings that stand for tokens during one call, in one thread."""

    embeddings: Tensor
    ids: Tensor
    mask: Tensor
    used: bool = False


class _Calls(threading.local):
    given: _Given | None = None


_CALLS = _Calls()


@contextmanager
def _given(embeddings: Tensor, ids: Tensor, mask: Tensor) -> Iterator[_Given]:
    outer, _CALLS.given = _CALLS.given, _Given(embeddings, ids, mask)
    try:
        yield _CALLS.given
    finally:
        _CALLS.given = outer


class _Lookup(nn.Module):
    """An embedding layer whose answer for the tokens of the input is what was given; for any others its own."""

    table: nn.Embedding | nn.EmbeddingBag

    def __init__(self, table: nn.Embedding | nn.EmbeddingBag) -> None:
        super().__init__()
        self.table = table

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("table"), name)  # code that asks its embedding for weight or dtype

    def embedded(self, ids: Tensor) -> Tensor:
        """The embeddings (N, L, D) of tokens."""
        with torch.no_grad():
            found: Tensor = self.table(ids)
        return found

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        given = _CALLS.given
        if given is None or input.shape != given.ids.shape or not torch.equal(input, given.ids):
            return self.table(input, *args, **kwargs)
        given.used = True
        return given.embeddings


class _Bag(_Lookup):
    """The same for a bag: its sum, mean or maximum is taken here, over tokens and not over padding."""

    table: nn.EmbeddingBag

    def embedded(self, ids: Tensor) -> Tensor:
        """The embeddings (N, L, D) of tokens."""
        return self.table.weight.detach()[ids]

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Any:
        given, table = _CALLS.given, self.table
        own = given is not None and torch.equal(input, given.ids if offsets is None else given.ids[given.mask])
        if given is None or not own or per_sample_weights is not None:
            return table(input, offsets, per_sample_weights)
        given.used = True
        counted = given.mask if table.padding_idx is None else given.mask & (given.ids != table.padding_idx)
        within, some = counted[..., None], counted.sum(1, keepdim=True)  # (N, L, 1), (N, 1)
        if table.mode == "max":
            return given.embeddings.masked_fill(~within, -torch.inf).amax(1).masked_fill(some == 0, 0)
        total = given.embeddings.masked_fill(~within, 0).sum(1)  # (N, D)
        return total if table.mode == "sum" else total / some.clamp_min(1)


@dataclass(frozen=True)
class _Call:
    """How a model is called with tokens: the names of its parameters that are filled in."""

    tokens: str
    masks: tuple[str, ...] = field(default=())
    offsets: bool = False
    last_offset: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> "_Call":
        try:
            parameters = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not named:
            raise ModelError("expected a model whose first parameter takes token numbers (N, L). Wrap it so.")
        first = "input_ids" if any(p.name == "input_ids" for p in named) else named[0].name
        masks = tuple(p.name for p in named if p.name in MASKS and p.name != first)
        offsets = any(p.name == "offsets" for p in named) and first != "offsets"
        unknown = [p.name for p in named if p.default is p.empty and p.name not in (first, "offsets", *masks)]
        if unknown:
            raise ModelError(
                f"the model needs {', '.join(unknown)}, and what is known of a text is its tokens and "
                f"{', '.join(MASKS)}, offsets. Give the parameter one of these names, or a default."
            )
        last = any(m.include_last_offset for m in model.modules() if isinstance(m, nn.EmbeddingBag))
        return cls(first, masks, offsets, last)

    def __call__(self, model: nn.Module, ids: Tensor, mask: Tensor) -> Any:
        """What the model returns for tokens (N, L), of which `mask` says which are no padding."""
        arguments: dict[str, Any] = {name: MASKS[name](mask) for name in self.masks}
        if self.offsets:
            ends = mask.sum(1).cumsum(0)
            arguments["offsets"] = torch.cat([ends.new_zeros(1), ends if self.last_offset else ends[:-1]])
            ids = ids[mask]
        return model(**{self.tokens: ids}, **arguments)


def _code(ids: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Tokens and mask (N, L) as the last column of an input."""
    if dtype not in (torch.float32, torch.float64):
        raise expected("model", "of float32 or float64, which hold the number of a token", str(dtype), "model.float()")
    return ((2 * ids + mask) * SCALE).to(dtype)


def _decoded(code: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask (N, L), of the last column (N, L) after any step. A row of padding alone counts as text."""
    number = (code.detach() / SCALE).round().long().clamp_(0, 2 * vocabulary - 1)
    mask = number % 2 == 1
    return number // 2, mask | ~mask.any(1, keepdim=True)


def _probe(model: nn.Module, length: int) -> Tensor:
    """Token numbers (2, L) that no position and no segment has."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    least = min((m.num_embeddings for m in tables), default=0)
    if least < 1 or max(m.num_embeddings for m in tables) > MOST_TOKENS:
        raise ModelError(
            f"expected a model with an nn.Embedding or nn.EmbeddingBag of at most {MOST_TOKENS} tokens, got none such. "
            "Embed the tokens yourself, and judge a model of embeddings."
        )
    draw = torch.randint(least, (2, length), generator=torch.Generator().manual_seed(0))
    return draw.to(tables[0].weight.device)


def _looked_up_in(model: nn.Module, call: _Call, ids: Tensor) -> str:
    """The name of the layer in which the model looks up tokens."""
    found: list[str] = []
    mask = torch.ones_like(ids, dtype=torch.bool)
    wanted = (ids, ids[mask])

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            given = inputs[0] if inputs else kwargs.get("input")
            if isinstance(given, Tensor) and any(torch.equal(given, each) for each in wanted):
                found.append(name)

        return hook

    tables = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    hooks = [module.register_forward_pre_hook(note(name), with_kwargs=True) for name, module in tables]
    try:
        with torch.no_grad():
            call(model, ids, mask)
    except Exception as error:  # foreign code
        raise ModelError(
            f"the model failed on token numbers of shape {tuple(ids.shape)}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if len(set(found)) != 1:
        where = ", ".join(sorted(set(found))) or "no layer"
        raise ModelError(
            f"expected the model to look up its tokens in one nn.Embedding or nn.EmbeddingBag, got {where}. Embed the "
            "tokens yourself, and judge a model of embeddings."
        )
    return found[0]
