"""Text: a small transformer that tells eight similar languages apart, judged over the embeddings of characters."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.networks.catalogues import LONGEST, catalogue_files, manual_lines, messages
from benchmarks.networks.making import Network
from benchmarks.networks.training import fit
from gradgeo.bench.scenarios import Scenario, Task

LANGUAGES = ("da", "nb", "sv", "nl", "es", "gl", "pt", "it")
RELATED = ("ca", "ro", "de", "fr", "eo")
"""Languages that are like those it knows."""
UNRELATED = ("fi", "hu", "tr", "pl", "cs", "id", "vi")
SCRIPTS = ("ru", "el", "ja", "uk")
"""Languages in other scripts, whose characters it does not know."""
TRAINING, HELD_OUT = 1200, 500
"""Texts of each language."""
WIDTH, CHARACTERS = 32, 200
PADDING, UNKNOWN = 0, 1


class Tokens(nn.Module):
    """Numbers of characters (N, L) to logits, or embeddings (N, L, D)."""

    alphabet: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alphabet", torch.full((CHARACTERS,), -1))  # code points by number
        self.embed = nn.Embedding(CHARACTERS, WIDTH)
        self.place = nn.Parameter(0.1 * torch.randn(LONGEST, 2 * WIDTH))
        self.local = nn.Conv1d(WIDTH, 2 * WIDTH, 5, padding=2)
        layers = (nn.TransformerEncoderLayer(2 * WIDTH, 4, 128, 0.0, batch_first=True) for _ in range(2))
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(2 * WIDTH, len(LANGUAGES))

    def forward(self, e: Tensor) -> Tensor:
        """Logits (N, C) of embeddings or of numbers."""
        e = e if e.is_floating_point() else self.embed(e)
        local = torch.relu(self.local(e.transpose(1, 2))).transpose(1, 2)
        logits: Tensor = self.head(self.blocks(local + self.place).mean(1))
        return logits

    def numbers(self, texts: list[str]) -> Tensor:
        """The numbers of the characters of texts (N, L), padded."""
        known = {chr(code): i for i, code in enumerate(self.alphabet.tolist()) if code >= 0}
        rows = [[known.get(c, UNKNOWN) for c in text[:LONGEST]] for text in texts]
        return torch.tensor([row + [PADDING] * (LONGEST - len(row)) for row in rows])

    @torch.no_grad()
    def embedded(self, numbers: Tensor) -> Tensor:
        """Embeddings (N, L, D)."""
        found: Tensor = self.embed(numbers)
        return found

    def found(self, e: Tensor) -> Tensor:
        """The numbers (N, L) of embeddings that were looked up."""
        return torch.stack([torch.cdist(row, self.embed.weight).argmin(1) for row in e])


def _texts(part: slice) -> tuple[list[str], Tensor]:
    """Texts of each language that no other of them has, and their languages, in random order."""
    counts = Counter(text for language in LANGUAGES for text in messages(language))
    texts, labels = [], []
    for number, language in enumerate(LANGUAGES):
        own = [text for text in messages(language) if counts[text] == 1][part]
        texts += own
        labels += [number] * len(own)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    return [texts[i] for i in order], torch.tensor(labels)[order]


def _train(model: nn.Module, folder: Path, few: int | None) -> dict[str, Tensor]:
    assert isinstance(model, Tokens)
    texts, y = _texts(slice(0, few or TRAINING))
    counted = Counter("".join(texts)).most_common(CHARACTERS - 2)
    common = sorted(c for c, count in counted if few or count >= 20)
    model.alphabet[2 : 2 + len(common)] = torch.tensor([ord(c) for c in common])
    fit(model, model.numbers(texts), y, epochs=1 if few else 10)
    return model.state_dict()


def _held_out(model: nn.Module, folder: Path, few: int | None) -> tuple[Tensor, Tensor]:
    assert isinstance(model, Tokens)
    texts, y = _texts(slice(TRAINING, TRAINING + (few or HELD_OUT)))
    return model.embedded(model.numbers(texts)), y


TEXT_NETWORKS = {
    "languages": Network(
        kind="text",
        trained_on=f"1,200 messages each of eight languages ({', '.join(LANGUAGES)}) from installed catalogues",
        licence="each package's own (mostly GPL, LGPL, BSD); read where it is installed, not copied",
        module="text.py",
        files=lambda folder: [file for language in LANGUAGES for file in catalogue_files(language)],
        build=lambda folder: Tokens(),
        train=_train,
        held_out=_held_out,
        half=2600,
        size=300,
        budgets=(0.2, 0.05),
        bounds=None,
        channel_axis=2,
        without=("reversed", "constant", "textures", "rotation"),
    )
}
"""By name."""


def _of_text(task: Task) -> bool:
    return isinstance(task.classifier.model, Tokens)


def _model(task: Task) -> Tokens:
    assert isinstance(task.classifier.model, Tokens)
    return task.classifier.model


def _read(read: Callable[[str], list[str]], languages: tuple[str, ...]) -> Callable[[Task], Tensor]:
    """Texts of these languages, as many of each."""

    def generate(task: Task) -> Tensor:
        each = -(-task.size // len(languages))
        texts = [text for language in languages for text in read(language)[-each:]]
        return _model(task).embedded(_model(task).numbers(texts[: task.size]))

    return generate


def _changed(name: str, change: Callable[[Tensor, torch.Generator, Tokens], Tensor]) -> Callable[[Task], Tensor]:
    """Trusted texts, the characters of each changed."""

    def generate(task: Task) -> Tensor:
        model, generator = _model(task), task.generator(name)
        rows = [change(row[row != PADDING], generator, model) for row in model.found(task.x)]
        padded = [torch.cat([row, row.new_full((LONGEST - len(row),), PADDING)]) for row in rows]
        return model.embedded(torch.stack(padded))

    return generate


def _shuffled_words(row: Tensor, generator: torch.Generator, model: Tokens) -> Tensor:
    space = int(model.numbers([" "])[0, 0])
    cuts = (row == space).nonzero()[:, 0].tolist()
    words = [row[a:b] for a, b in zip([0, *(c + 1 for c in cuts)], [*cuts, len(row)], strict=True)]
    order = torch.randperm(len(words), generator=generator).tolist()
    spaced = [part for i in order for part in (words[i], row.new_full((1,), space))]
    return torch.cat(spaced)[:-1]


def _shuffled_letters(row: Tensor, generator: torch.Generator, model: Tokens) -> Tensor:
    return row[torch.randperm(len(row), generator=generator)]


def _typos(row: Tensor, generator: torch.Generator, model: Tokens) -> Tensor:
    """One character in six is another."""
    used = int((model.alphabet >= 0).sum())
    other = torch.randint(2, 2 + used, row.shape, generator=generator)
    return torch.where(torch.rand(row.shape, generator=generator) < 1 / 6, other, row)


def _random_letters(row: Tensor, generator: torch.Generator, model: Tokens) -> Tensor:
    return torch.randint(2, 2 + int((model.alphabet >= 0).sum()), row.shape, generator=generator)


def _repeated(row: Tensor, generator: torch.Generator, model: Tokens) -> Tensor:
    """Its first six characters again and again."""
    return row[:6].repeat(LONGEST // 6)


def _two_languages(task: Task) -> Tensor:
    """The first half of one trusted text, the second of another of another language."""
    x, y = task.x, task.y
    other = torch.stack([torch.nonzero(y != label)[i % int((y != label).sum()), 0] for i, label in enumerate(y)])
    return torch.cat([x[:, : LONGEST // 2], x[other, : LONGEST // 2]], 1)


@cache
def _code(name: str = "") -> list[str]:
    """Lines of program text: this package's own."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    lines = [" ".join(line.split()) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if len(line) >= 24]


TEXT_SCENARIOS = {
    "related languages": Scenario("ood", _read(messages, RELATED), _of_text, "near"),
    "other languages": Scenario("ood", _read(messages, UNRELATED), _of_text, "far"),
    "other scripts": Scenario("ood", _read(messages, SCRIPTS), _of_text, "far"),
    "other genres": Scenario("ood", _read(manual_lines, ("da", "sv", "nl", "es", "pt", "it")), _of_text, "near"),
    "program text": Scenario("ood", _read(_code, ("",)), _of_text, "far"),
    "two languages": Scenario("ood", _two_languages, _of_text, "spoilt"),
    "shuffled words": Scenario("ood", _changed("shuffled words", _shuffled_words), _of_text, "spoilt"),
    "shuffled letters": Scenario("ood", _changed("shuffled letters", _shuffled_letters), _of_text, "spoilt"),
    "typos": Scenario("ood", _changed("typos", _typos), _of_text, "spoilt"),
    "repeated": Scenario("ood", _changed("repeated", _repeated), _of_text, "spoilt"),
    "random letters": Scenario("ood", _changed("random letters", _random_letters), _of_text, "far"),
}
"""What goes wrong with text."""
