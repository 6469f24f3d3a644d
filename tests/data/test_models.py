import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from gradgeo.data import Preprocess
from gradgeo.data.digits import digits_classifier
from gradgeo.data.models import is_named, load_model, pretrained_preprocessing
from gradgeo.errors import ArgumentError, GradgeoWarning, ModelError

NETS = """
from dataclasses import dataclass
import sys
import torch
from torch import nn
import beside

@dataclass
class Options:
    width: "int" = 4

def small_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(beside.WIDTH, 3), nn.Dropout())

def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    return net

class Net(nn.Module):
    pass

ready = nn.Linear(4, 2)

def broken():
    raise KeyError("no such layer")

def leaving():
    sys.exit(3)

def text():
    return "not a module"

number = 3
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    yield tmp_path / "nets.py"
    sys.modules.pop("beside", None)
    sys.modules.pop("nets", None)


def test_function_class_and_object_of_a_file(nets: Path) -> None:
    path = list(sys.path)
    model = load_model(f"{nets}:small_net")
    assert model(torch.zeros(2, 4)).shape == (2, 3)
    assert not any(module.training for module in model.modules())
    assert type(load_model(f"{nets}:Net")).__name__ == "Net"
    assert isinstance(load_model(f"{nets}:ready"), nn.Linear)
    assert sys.path == path


def test_function_of_a_module(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)
    monkeypatch.chdir(nets.parent)
    assert isinstance(load_model("nets:small_net"), nn.Sequential)


def test_digits_is_the_classifier_that_is_shipped() -> None:
    shipped = digits_classifier().state_dict()
    named = load_model("digits").state_dict()
    assert named.keys() == shipped.keys()
    assert all(torch.equal(named[name], shipped[name]) for name in shipped)


def test_a_file_does_not_hide_an_installed_module(tmp_path: Path) -> None:
    (tmp_path / "safetensors.py").write_text("from torch import nn\ndef net(): return nn.Identity()\n")
    load_model(f"{tmp_path / 'safetensors.py'}:net")
    import safetensors

    assert safetensors is sys.modules["safetensors"]
    assert hasattr(safetensors, "safe_open")


def test_the_same_weights_every_time_and_no_trace_in_the_random_state(nets: Path) -> None:
    state = torch.random.get_rng_state()
    first, second = load_model(f"{nets}:small_net"), load_model(f"{nets}:small_net")
    assert torch.equal(first[1].weight, second[1].weight)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("smal_net", ArgumentError, "a function in .*, got 'smal_net'. Did you mean small_net"),
        ("zzz", ArgumentError, "Did you mean Net, Options, broken"),
        ("broken", ModelError, r"nets\.py:broken\(\) failed: KeyError: 'no such layer'"),
        ("leaving", ModelError, r"leaving\(\) failed: SystemExit: 3"),
        ("text", ArgumentError, "a torch.nn.Module from .*:text, got 'not a module'"),
        ("number", ArgumentError, "a torch.nn.Module from .*:number, got 3"),
    ],
)
def test_what_a_file_may_get_wrong(nets: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(f"{nets}:{name}")


@pytest.mark.parametrize("spec", ["", "resnet18", "a:", ":b", "nets.py"])
def test_what_is_no_spec(spec: str) -> None:
    with pytest.raises(ArgumentError, match=r"expected model to be file\.py:function, package"):
        load_model(spec)


def test_missing_files_and_modules(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"model to be a file that exists, got 'nowhere\.py'"):
        load_model("nowhere.py:net")
    with pytest.raises(ArgumentError, match=r"a module that can be imported, got 'no_such_package\.nets'"):
        load_model("no_such_package.nets:net")
    (tmp_path / "bad.py").write_text("import no_such_package")
    with pytest.raises(ModelError, match=r"bad\.py failed when imported: ModuleNotFoundError: .*no_such_package"):
        load_model(f"{tmp_path / 'bad.py'}:net")
    (tmp_path / "worse.py").write_text("def net(:")
    with pytest.raises(ModelError, match=r"worse\.py failed when imported: SyntaxError"):
        load_model(f"{tmp_path / 'worse.py'}:net")
    assert "gradgeo_model_bad" not in sys.modules


# Weights


def test_weights(nets: Path) -> None:
    state = {"1.weight": torch.ones(3, 4), "1.bias": torch.arange(3.0)}
    save_file(state, nets.parent / "a.safetensors")
    model = load_model(f"{nets}:small_net", nets.parent / "a.safetensors")
    assert model(torch.ones(1, 4)).tolist() == [[4, 5, 6]]


def test_tied_weights_are_saved_once(nets: Path) -> None:
    tied = load_model(f"{nets}:tied")
    nn.init.ones_(tied[0].weight)
    save_model(tied, str(nets.parent / "a.safetensors"))
    assert load_model(f"{nets}:tied", nets.parent / "a.safetensors")[1].weight.sum() == 16


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"1.weight": (3, 4)}, r"1 missing \(1\.bias\)\."),
        ({"1.weight": (3, 4), "1.bias": (3,), "x": (1,)}, r"1 unexpected \(x\)\."),
        (
            {"module.1.weight": (3, 4), "module.1.bias": (3,)},
            r"2 missing \(1\.bias, 1\.weight\); 2 unexpected \(module\.1\.bias, module\.1\.weight\)",
        ),
        (
            {"1.weight": (5, 4), "1.bias": (3,)},
            r"1 of the model's 2 tensors: 1\.weight is \(5, 4\) there and \(3, 4\)",
        ),
    ],
)
def test_weights_of_another_model(nets: Path, state: dict[str, tuple[int, ...]], message: str) -> None:
    save_file({name: torch.zeros(shape) for name, shape in state.items()}, nets.parent / "a.safetensors")
    with pytest.raises(ModelError, match=message):
        load_model(f"{nets}:small_net", nets.parent / "a.safetensors")


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin"])
def test_pickled_weights_are_refused_with_the_line_that_converts_them(
    nets: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"1.weight": torch.ones(3, 4), "1.bias": torch.zeros(3)}, nets.parent / name)
    with pytest.raises(ArgumentError, match="pickles, which execute code") as caught:
        load_model(f"{nets}:small_net", nets.parent / name)
    line = str(caught.value).split('python -c "')[1].removesuffix('"')
    monkeypatch.chdir(nets.parent)
    exec(line)
    assert load_model(f"{nets}:small_net", "a.safetensors")[1].weight.sum() == 12


def test_weights_file_missing_or_broken(nets: Path) -> None:
    with pytest.raises(ArgumentError, match="weights to be a file that exists"):
        load_model(f"{nets}:small_net", nets.parent / "nowhere.safetensors")
    (nets.parent / "a.safetensors").write_bytes(b"junk")
    with pytest.raises(ArgumentError, match=r"weights to be a safetensors file, got 'a\.safetensors'. Reading it says"):
        load_model(f"{nets}:small_net", nets.parent / "a.safetensors")


# Zoos


@pytest.mark.zoo
@pytest.mark.parametrize("spec", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_zoo_takes_the_number_of_classes_from_the_weights(spec: str, tmp_path: Path) -> None:
    with pytest.warns(GradgeoWarning, match=f"{spec} has random weights"):
        model = load_model(spec)
    last = list(model.state_dict())[-2]
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "same.safetensors")
    assert len(load_model(spec, tmp_path / "same.safetensors").state_dict()[last]) == 1000
    for name in list(state)[-2:]:
        state[name] = state[name][:7].clone()
    save_file(state, tmp_path / "seven.safetensors")
    seven = load_model(spec, tmp_path / "seven.safetensors")
    assert seven(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert torch.equal(seven.state_dict()[last], state[last])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet", "a classifier in torchvision, got 'resnet'. Did you mean"),
        ("torchvision:fasterrcnn_resnet50_fpn", "a classifier in torchvision"),
        ("timm:resnet_18", "a classifier in timm, got 'resnet_18'. Did you mean"),
        ("timm:hf-hub:someone/model", "a classifier in timm, got 'hf-hub:someone/model'"),
        ("timm:local-dir", "a classifier in timm"),
    ],
)
def test_zoo_names(spec: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        load_model(spec)


@pytest.mark.zoo
@pytest.mark.witness
@pytest.mark.parametrize(
    ("spec", "resize", "crop", "interpolation"),
    [
        ("torchvision:resnet18", 256, [224, 224], "bilinear"),
        ("torchvision:vit_b_16", 256, [224, 224], "bilinear"),
        ("timm:resnet18", 235, [224, 224], "bicubic"),
        ("timm:vit_base_patch16_384.augreg_in21k_ft_in1k", 384, [384, 384], "bicubic"),
    ],
)
def test_what_a_zoo_model_was_trained_to_see(spec: str, resize: int, crop: list[int], interpolation: str) -> None:
    pytest.importorskip(spec.partition(":")[0], reason="its library is not installed")
    found = pretrained_preprocessing(spec)
    assert found is not None
    assert (found["resize"], found["crop"], found["interpolation"]) == (resize, crop, interpolation)
    assert found["channels"] == len(found["mean"]) == len(found["std"]) == 3
    assert Preprocess.from_dict(found)(torch.rand(1, 300, 500)).shape == (3, *crop)


def test_other_models_say_nothing_of_what_they_see() -> None:
    for spec in ("digits", "net.py:net", "torchvision:fasterrcnn_resnet50_fpn", "timm:no_such_model"):
        assert pretrained_preprocessing(spec) is None


def test_named_models_run_no_code_of_the_specs_choice() -> None:
    assert is_named("digits")
    assert is_named("torchvision:resnet18")
    assert is_named("timm:resnet18")
    for spec in ("os:abort", "a.py:net", "digits.py:net", "torchvision.io:read", "/tmp/timm.py:x", ""):
        assert not is_named(spec)


@pytest.mark.data
def test_shared_models(gradgeo_data: Path) -> None:
    model = load_model(f"{gradgeo_data / 'models' / 'nets.py'}:cifar10_resnet20")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
