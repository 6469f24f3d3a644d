"""Texts: embeddings stand for tokens, exactly; padding, company in a batch and steps around an input change nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.classifier.text import SCALE, TextClassifier
from gradgeo.errors import ArgumentError, GradgeoWarning, ModelError, UnusableInputWarning

WORDS = [
    "the",
    "a",
    "of",
    "cat",
    "dog",
    "bird",
    "good",
    "bad",
    "movie",
    "film",
    "great",
    "awful",
    "fine",
    "nice",
    "sun",
    "moon",
    "star",
    "sky",
]


def numbers(text: str) -> list[int]:
    """A tokenizer: 0 is padding, 1 any word that is not known."""
    return [WORDS.index(word) + 2 if word in WORDS else 1 for word in text.split()]


def some_texts(n: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, int(draw.integers(2, 9)))) for _ in range(n)]


class Bag(nn.Module):
    """The text classifier of PyTorch's tutorial: token numbers one after the other, and where each text begins."""

    def __init__(self, mode: str = "mean", padding: int | None = None, last: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(30, 6, mode=mode, padding_idx=padding, include_last_offset=last)
        self.head = nn.Linear(6, 3)

    def forward(self, text: Tensor, offsets: Tensor) -> Tensor:
        return self.head(self.bag(text, offsets).tanh())


class Padded(nn.Module):
    """An LSTM that is told the lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(30, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states = self.lstm(self.embed(tokens))[0]  # (N, L, 8)
        return self.head(states[torch.arange(len(tokens)), lengths - 1])


class Masked(nn.Module):
    """A transformer with positions, which masks padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(30, 6), nn.Embedding(12, 6)
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor, padding_mask: Tensor) -> Tensor:
        e = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.encoder(e, src_key_padding_mask=padding_mask)[:, 0])


def alone(model: nn.Module, text: str) -> Tensor:
    """Its logits (1, C) as its owner calls it, without padding."""
    tokens = torch.tensor(numbers(text))
    if isinstance(model, Bag):
        offsets = [0, len(tokens)] if model.bag.include_last_offset else [0]
        return model(tokens, torch.tensor(offsets))
    if isinstance(model, Padded):
        return model(tokens[None], torch.tensor([len(tokens)]))
    return model(tokens[None], torch.zeros(1, len(tokens), dtype=torch.bool))


MODELS: dict[str, Any] = {
    "mean": Bag,
    "sum": lambda: Bag("sum", last=True),
    "max": lambda: Bag("max", padding=3),
    "lstm": Padded,
    "transformer": Masked,
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_model_on_the_text_alone(name: str) -> None:
    model = MODELS[name]().eval()
    wrapped, texts = gradgeo.text(model, numbers, max_length=12), some_texts(6)
    x = wrapped.encode(texts)
    assert x.shape == (6, 12, 7)
    own = torch.cat([alone(model, text) for text in texts])
    torch.testing.assert_close(wrapped(x), own, rtol=1e-5, atol=1e-6)
    for row in range(3):  # and of no other text
        torch.testing.assert_close(wrapped(x[row : row + 1])[0], own[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mean", "max", "lstm", "transformer"])
def test_padding_has_no_gradient_and_no_step_opens_its_mask(name: str) -> None:
    wrapped = gradgeo.text(MODELS[name]().eval(), numbers, max_length=12)
    x = wrapped.encode(["good movie", "cat dog bird sun"]).requires_grad_()
    (gradient,) = torch.autograd.grad(wrapped(x)[:, 0].sum(), x)
    assert gradient[..., -1].abs().max() == 0
    assert gradient[0, 2:].abs().max() == 0 == gradient[1, 4:].abs().max()
    assert gradient[0, :2].abs().max() > 0
    moved = x.detach().clone()
    moved[0, 2:, :-1] += 5 * torch.randn(10, 6)
    moved[..., -1] += 0.4 * SCALE * (2 * torch.rand(2, 12) - 1)
    torch.testing.assert_close(wrapped(moved), wrapped(x), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def detector() -> gradgeo.Detector:
    torch.manual_seed(0)
    model = gradgeo.text(Bag().eval(), numbers, max_length=12)
    with pytest.warns(GradgeoWarning, match="copies of others"):
        return gradgeo.Detector(model, evidence="lite").fit([*some_texts(200), "good cat", "good cat"])


def test_texts_in_verdicts_out(detector: gradgeo.Detector) -> None:
    assert detector.evidence_ == ("confidence", "mahalanobis", "layer_1")
    texts = some_texts(20, seed=1)
    verdicts = detector.predict(texts)
    single = torch.cat([detector.outlier_score([text]) for text in texts])
    torch.testing.assert_close(single, verdicts.outlier_score, rtol=1e-3, atol=1e-4)
    for column in (np.array(texts), np.array(texts, dtype=object), tuple(texts)):
        assert torch.equal(detector.predict(column).p_value, verdicts.p_value)
    assert torch.equal(detector.judge(texts).predictions.p_value, verdicts.p_value)
    assert len(detector.explain(texts[:1])) == 1
    assert isinstance(detector.model, TextClassifier)
    assert torch.equal(gradgeo.guard(detector.model, detector)(texts).p_value, verdicts.p_value)


def test_columns_of_tables_are_texts(detector: gradgeo.Detector) -> None:
    frame = pytest.importorskip("pandas").DataFrame({"text": ["cat dog", None]})
    with pytest.warns(UnusableInputWarning, match="1 of 2"):
        assert detector.predict(frame["text"]).trusted.tolist()[1] is False
    with pytest.raises(ArgumentError, match=r"a list or a column of texts.*Name the column: df\['text'\]"):
        detector.predict(frame)


def test_data_sets_of_mappings_with_texts(detector: gradgeo.Detector) -> None:
    texts = some_texts(5, seed=2)
    items = [{"text": text, "label": 0} for text in texts]
    loader = torch.utils.data.DataLoader(items, batch_size=2)  # type: ignore[arg-type]
    assert torch.equal(detector.predict(loader).p_value, detector.predict(texts).p_value)


def test_what_is_no_text_is_not_trusted(detector: gradgeo.Detector) -> None:
    with pytest.warns(UnusableInputWarning, match="3 of 4"):
        verdicts = detector.predict(["good movie", "", None, 3.5])  # type: ignore[list-item]
    assert verdicts.outlier_score.isnan().tolist() == [False, True, True, True]
    with pytest.raises(ArgumentError, match=r"a list of texts, got 'good'. For a single text pass \[text\]"):
        detector.predict("good")
    with pytest.warns(GradgeoWarning, match="1 of 1 texts have more than 12 tokens"):
        detector.predict(["cat " * 13])


def test_a_detector_is_bound_to_its_tokenizer(detector: gradgeo.Detector, tmp_path: Any) -> None:
    detector.save(tmp_path / "d.gradgeo")
    bag = Bag().eval()
    assert isinstance(detector.model, TextClassifier)
    bag.load_state_dict({k.replace("lookup.table", "bag"): v for k, v in _weights(detector.model).items()})
    same = gradgeo.text(bag, numbers, max_length=12)
    known = gradgeo.Detector.load(tmp_path / "d.gradgeo", same)
    texts = some_texts(3, seed=4)
    assert torch.equal(known.predict(texts).p_value, detector.predict(texts).p_value)
    for other in (gradgeo.text(bag, numbers, max_length=13), gradgeo.text(bag, lambda t: [2] * len(t), max_length=12)):
        with pytest.raises(gradgeo.GradgeoError, match="fitted with another model"):
            gradgeo.Detector.load(tmp_path / "d.gradgeo", other)


def _weights(model: TextClassifier) -> dict[str, Tensor]:
    return {k.replace("bag.table", "bag"): v for k, v in model.model.state_dict().items()}


class TwoTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Embedding(30, 3), nn.Embedding(30, 3), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.cat([self.one(tokens), self.two(tokens)], 2).mean(1))


class Needy(Masked):
    def forward(self, tokens: Tensor, mood: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens, mood)


@pytest.mark.parametrize(
    ("model", "tokenizer", "error", "message"),
    [
        (TwoTables(), numbers, ModelError, "look up its tokens in one nn.Embedding or nn.EmbeddingBag, got one, two"),
        (nn.Linear(3, 2), numbers, ModelError, "a model with an nn.Embedding or nn.EmbeddingBag"),
        (Needy(), numbers, ModelError, "the model needs mood"),
        (Bag().double(), 7, ArgumentError, "expected tokenizer to be a tokenizer of Hugging Face, or a function"),
        (Bag(), lambda text: text, ArgumentError, "a function from a text to a list of token numbers, got"),
        (Bag().half(), numbers, ArgumentError, "float32 or float64"),
        (len, numbers, ArgumentError, "expected model to be a torch.nn.Module"),
    ],
)
def test_models_and_tokenizers_that_do_not_fit(model: Any, tokenizer: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        gradgeo.text(model, tokenizer, max_length=12)


def test_tokens_beyond_the_table_and_evidence_of_pictures_are_refused() -> None:
    model = gradgeo.text(Bag().eval(), lambda text: [99], max_length=12)
    with pytest.raises(ArgumentError, match=r"to give numbers within 0\.\.29, got '0\.\.99'"):
        model.encode(["good"])
    model = gradgeo.text(Bag().eval(), numbers, max_length=12)
    with pytest.raises(ArgumentError, match="what means something for texts, got 'shifts'"):
        gradgeo.Detector(model, evidence=["confidence", "shifts"]).fit(some_texts(100))
    with pytest.raises(ArgumentError, match=r"Texts take a model made by gradgeo\.text"):
        gradgeo.Detector(nn.Linear(3, 2)).fit(some_texts(100))


def test_the_caller_s_model_is_as_before() -> None:
    bag = Bag().train()
    before, mode = {k: v.clone() for k, v in bag.state_dict().items()}, bag.training
    gradgeo.text(bag, numbers, max_length=12)
    assert type(bag.bag) is nn.EmbeddingBag
    assert bag.training is mode
    assert all(torch.equal(v, before[k]) for k, v in bag.state_dict().items())
