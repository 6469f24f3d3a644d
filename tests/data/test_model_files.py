"""Models of Hugging Face folders, TorchScript and torch.export files, and checkpoints of Lightning."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradgeo.classifier.text import TextClassifier
from gradgeo.data.models import class_names, is_named, load_model
from gradgeo.data.transform import Preprocess, load_transform
from gradgeo.errors import ArgumentError, ModelError

transformers = pytest.importorskip("transformers")


def tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def bert(kind: str, **options: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3,
        max_position_embeddings=16, initializer_range=0.5, **options,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of random weights: of texts, of pictures, and one without logits."""
    root = tmp_path_factory.mktemp("hub")
    bert("BertForSequenceClassification", id2label={0: "no", 1: "yes", 2: "perhaps"}).save_pretrained(root / "texts")
    tokenizer().save_pretrained(root / "texts")
    bert("BertModel").save_pretrained(root / "bare")
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        num_labels=3,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(root / "pictures")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(root / "pictures")
    return root


@pytest.mark.zoo
def test_a_text_classifier_comes_with_its_tokenizer(folder: Path) -> None:
    model, texts = load_model(f"hf:{folder / 'texts'}"), ["good film", "bad", "good bad good bad film"]
    assert isinstance(model, TextClassifier)
    assert model.max_length == 16
    assert class_names(model) == ("no", "yes", "perhaps")
    own = transformers.BertForSequenceClassification.from_pretrained(folder / "texts").eval()
    with torch.no_grad():
        for text in texts:
            logits = own(**tokenizer()(text, return_tensors="pt")).logits
            torch.testing.assert_close(model(model.encode([text])), logits, rtol=1e-5, atol=1e-5)
        padded = own(**tokenizer()(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(model(model.encode(texts)), padded, rtol=1e-5, atol=1e-5)
    assert not is_named(f"hf:{folder / 'texts'}")  # a detector's notes do not open it


def test_an_image_classifier_comes_with_its_preparation(folder: Path) -> None:
    model = load_model(f"hf:{folder / 'pictures'}")
    assert model(torch.rand(2, 3, 16, 16)).logits.shape == (2, 3)
    assert class_names(model) == ()
    made = load_transform(f"hf:{folder / 'pictures'}")
    assert isinstance(made, Preprocess)
    expected = {"size": [16, 16], "stretch": True, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert {k: pytest.approx(v) if isinstance(v, list) else v for k, v in made.declared().items()} == expected


def test_models_of_the_hub_that_are_no_classifiers(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\(an architecture that ends in .*\), got BertModel, which has no logits"):
        load_model(f"hf:{folder / 'bare'}")
    config = json.loads((folder / "bare" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    (tmp_path / "model.safetensors").write_bytes((folder / "bare" / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"lack classifier.bias, classifier.weight: they were never trained"):
        load_model(f"hf:{tmp_path}")
    with pytest.raises(ModelError, match="cannot be read: transformers says"):
        load_model(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(ArgumentError, match="expected weights to be None for hf:"):
        load_model(f"hf:{folder / 'texts'}", tmp_path / "model.safetensors")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_whole_models_in_a_file(tmp_path: Path) -> None:
    model, x = net(), torch.rand(5, 1, 2, 2)
    torch.jit.trace(model, x).save(str(tmp_path / "a.pt"))
    dynamic = {"input": {0: torch.export.Dim("n")}}
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=dynamic), tmp_path / "a.pt2")
    for name in ("a.pt", "a.pt2"):
        read = load_model(str(tmp_path / name))
        y = x[:3].clone().requires_grad_()
        torch.testing.assert_close(read(y), model(y))
        assert torch.autograd.grad(read(y).sum(), y)[0].abs().max() > 0
    torch.save(model.state_dict(), tmp_path / "b.pt")
    with pytest.raises(ModelError, match=r"b.pt is no model TorchScript .*Pickled models are not read"):
        load_model(str(tmp_path / "b.pt"))
    with pytest.raises(ArgumentError, match=r"expected model to be a file that exists, got 'c.pt'"):
        load_model("c.pt")


CODE = """
from torch import nn
class Part(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 3)
    def forward(self, x): return self.layer(x)
class Whole(nn.Module):
    def __init__(self, width, rate=1):
        super().__init__()
        self.net, self.rate = Part(width), rate
    def forward(self, x): return self.net(x)
"""


def test_checkpoints_of_lightning(tmp_path: Path) -> None:
    (tmp_path / "lit.py").write_text(CODE)
    weights = {"net.layer.weight": torch.ones(3, 4), "net.layer.bias": torch.arange(3.0)}
    known = {"state_dict": weights, "hyper_parameters": {"width": 4, "rate": 2, "more": None}, "epoch": 1}
    file = tmp_path / "last.ckpt"
    torch.save(known, file)
    for name in ("Whole", "Part"):  # the module that was trained, or the part of it that is the classifier
        model = load_model(f"{tmp_path / 'lit.py'}:{name}", file)
        assert model(torch.ones(1, 4)).tolist() == [[4.0, 5.0, 6.0]]
    torch.save(known | {"hyper_parameters": {"width": 5}}, file)
    with pytest.raises(
        ModelError, match=r"other shapes for 1 of the model's 2 tensors: layer.weight is \(3, 4\) there"
    ):
        load_model(f"{tmp_path / 'lit.py'}:Part", file)
    torch.save({"state_dict": {"a.layer.weight": weights["net.layer.weight"]}, "hyper_parameters": {"width": 4}}, file)
    with pytest.raises(ModelError, match=r"got none among a.layer.weight"):
        load_model(f"{tmp_path / 'lit.py'}:Part", file)
    torch.save(known | {"callbacks": net()}, file)
    with pytest.raises(ModelError, match="other objects than tensors and plain values, or is broken"):
        load_model(f"{tmp_path / 'lit.py'}:Whole", file)
    torch.save(weights, file)
    with pytest.raises(ModelError, match="to be a checkpoint of Lightning with a state_dict"):
        load_model(f"{tmp_path / 'lit.py'}:Whole", file)
