"""Other people's classifiers: a few of those that `python -m benchmarks architectures` measures, and ones of another kind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from benchmarks import architectures, reference
from benchmarks.shipped import Suite
from gradgeo import Detector
from helpers import ROOT

CHEAP = (
    "torchvision:squeezenet1_1",
    "torchvision:shufflenet_v2_x0_5",
    "timm:deit_tiny_patch16_224",
    "timm:mixer_s32_224",
)


@pytest.mark.zoo
@pytest.mark.parametrize("name", CHEAP)
def test_maps_equal_the_float64_loop(name: str) -> None:
    pytest.importorskip(name.split(":")[0], reason=f"{name.split(':')[0]} is not installed")
    found = architectures.measure(architectures.ARCHITECTURES[name])
    assert found.exact, found  # float32 may meet a kink, on another machine another one
    assert found.maps < 0.2, found
    assert found.strategy.startswith("one by one: aten::_scaled_dot" if "deit" in name else "together"), found
    assert (found.head == "none") == ("squeezenet" in name)
    assert found.folded == ("56 of 56" if "shufflenet" in name else "none there")


@pytest.mark.zoo
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = architectures.Found(12, 2e-4, 0.5, 0.1, 0.0, 1e-5, 0, 0, 0, "together", "1 of 1", "4 features", 1.0, 2.0)
    broken: dict[str, Any] = {"a": found, "b": ValueError("no such\nmodel")}

    def measure(architecture: architectures.Architecture) -> architectures.Found:
        if isinstance(broken[architecture.name], Exception):
            raise broken[architecture.name]
        return broken[architecture.name]

    monkeypatch.setattr(architectures, "measure", measure)
    monkeypatch.setattr(
        architectures, "ARCHITECTURES", {n: architectures.Architecture("family", "timm", n) for n in broken}
    )
    page = (
        architectures.run(Suite(tmp_path))
        .write(tmp_path, "architectures", "python -m benchmarks architectures")
        .read_text()
    )
    assert "wrong in float64 (beyond 1e-06): a, b (ValueError: no such\\nmodel). An input on a" in page
    assert "kink in float32 (beyond 0.0001 or two signs): a." in page
    assert set(json.loads((tmp_path / "architectures.json").read_text())) >= {"a"}


def test_at_least_forty_of_many_families() -> None:
    assert len(architectures.ARCHITECTURES) >= 40
    assert len({a.family for a in architectures.ARCHITECTURES.values()}) >= 12


@pytest.mark.release
def test_the_committed_page_holds_what_it_says() -> None:
    page = json.loads((ROOT / "results" / "architectures.json").read_text())
    measured = {name: row for name, row in page.items() if name in architectures.ARCHITECTURES}
    assert set(measured) == set(architectures.ARCHITECTURES)
    assert all(row["in_float64"] <= architectures.SAME for row in measured.values())
    kinks = [name for name, row in measured.items() if row["unsigned"] > architectures.UNSIGNED]
    assert len(kinks) <= len(measured) / 10


class FromEmbeddings(nn.Module):
    """A Hugging Face text classifier as a function of its input embeddings (N, tokens, width)."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.text(inputs_embeds=embeddings).logits


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["Bert", "DistilBert"])
def test_a_text_classifier_through_its_embeddings(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 50, "num_labels": 4, "max_position_embeddings": 16}
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "DistilBert":
        small = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    config = getattr(transformers, f"{kind}Config")(**sizes, **small)
    text = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    for parameter in text.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(50, (60, 7), generator=torch.Generator().manual_seed(1))
    embeddings = text.get_input_embeddings()(tokens).detach()
    model = FromEmbeddings(text)
    exact = reference.maps(model, embeddings[:3], "cross_entropy")
    with pytest.warns(gradgeo.GradgeoWarning, match="one by one, which takes longer: .*scaled_dot_product"):
        ours = gradgeo.csm(model, embeddings[:3], sign=False).double()
    assert (ours - gradgeo.cosine_similarity_matrix(exact)).abs().max() <= 1e-4
    signs = gradgeo.saliency_maps(model, embeddings[:3]).double()
    assert (signs != exact.sign()).double().mean() <= 4 / embeddings[0].numel()
    verdict = Detector(model, alpha=0.2, evidence="fast").fit(embeddings).predict(embeddings[:5])
    assert verdict.p_value.isfinite().all()
    with pytest.raises(gradgeo.GradgeoError, match="Token ids: pass the input embeddings instead"):
        gradgeo.csm(text, tokens)
