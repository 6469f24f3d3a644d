"""The maps of other people's classifiers against the float64 loop: torchvision's and timm's, of every family."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.classifier.wrapper import Classifier
from gradgeo.errors import GradgeoWarning, one_line, require
from gradgeo.geometry.saliency import saliency_maps
from gradgeo.geometry.similarity import cosine_similarity_matrix

CLASSES = 10
INPUTS = 2
TIMED = 1

UNSIGNED = 1e-4
"""How far the cosines of unsigned maps may be from float64."""

SAME = 1e-6
"""The same where the model itself is in float64: what is left of an error of the method, without float32's rounding
(but that some models go through float32 inside)."""

LARGEST = 10.0
"""Logits are brought below this by the temperature: random weights may saturate the softmax of float64 itself."""


@dataclass(frozen=True)
class Architecture:
    """A constructor of torchvision or timm and the smallest sensible input it takes."""

    family: str
    zoo: str
    name: str
    size: int = 64
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """With random weights, none of them all zero, and BatchNorm statistics that are not those of a new layer."""
        torch.manual_seed(0)
        if self.zoo == "timm":
            model = require("timm", "timm").create_model(self.name, num_classes=CLASSES, **self.options)
        else:
            model = require("torchvision", "torchvision").models.get_model(
                self.name, weights=None, num_classes=CLASSES, **self.options
            )
        return awakened(model).eval()

    def inputs(self, n: int) -> Tensor:
        """Random images (n, 3, size, size)."""
        return torch.rand(n, 3, self.size, self.size, generator=torch.Generator().manual_seed(1))


def _of(family: str, zoo: str, *names: str, size: int = 64, **options: Any) -> tuple[Architecture, ...]:
    return tuple(Architecture(family, zoo, name, size, options) for name in names)


_VIT = {"size": 32, "img_size": 32}

ARCHITECTURES: dict[str, Architecture] = {
    f"{a.zoo}:{a.name}": a
    for a in (
        *_of("AlexNet", "torchvision", "alexnet"),
        *_of("VGG", "torchvision", "vgg11_bn", size=32),
        *_of("SqueezeNet", "torchvision", "squeezenet1_1"),
        *_of("Inception", "torchvision", "googlenet", aux_logits=False, init_weights=False),
        *_of("Inception", "torchvision", "inception_v3", size=80, aux_logits=False, init_weights=False),
        *_of("ResNet", "torchvision", "resnet18", "resnet50"),
        *_of("ResNet", "timm", "resnet10t", "seresnet18", "skresnet18", "resnest14d"),
        *_of("DenseNet", "torchvision", "densenet121"),
        *_of("MobileNet", "torchvision", "mobilenet_v2", "mobilenet_v3_small"),
        *_of("MobileNet", "timm", "mobilenetv4_conv_small", "lcnet_050"),
        *_of("MnasNet", "torchvision", "mnasnet0_5"),
        *_of("ShuffleNet", "torchvision", "shufflenet_v2_x0_5"),
        *_of("EfficientNet", "torchvision", "efficientnet_b0"),
        *_of("EfficientNet", "timm", "tf_efficientnetv2_b0", "tinynet_e", "rexnet_100", "ghostnet_050"),
        *_of("RegNet", "torchvision", "regnet_y_400mf"),
        *_of("RegNet", "timm", "regnetz_005", "nf_regnet_b0"),
        *_of("other convolutional", "timm", "repvgg_a0", "dla34", "selecsls42", "dpn48b"),
        *_of("other convolutional", "timm", "ese_vovnet19b_dw", "starnet_s1", "repvit_m0_9", "fastvit_t8"),
        *_of("ConvNeXt", "torchvision", "convnext_tiny"),
        *_of("ConvNeXt", "timm", "convnext_atto", "convnextv2_atto", "inception_next_atto"),
        *_of("ViT", "torchvision", "vit_b_16", size=32, image_size=32),
        *_of("ViT", "timm", "vit_tiny_patch16_224", **_VIT),
        *_of("ViT", "timm", "eva02_tiny_patch14_224", size=56, img_size=56),
        *_of("DeiT", "timm", "deit_tiny_patch16_224", "cait_xxs24_224", **_VIT),
        *_of("Swin", "torchvision", "swin_t", "swin_v2_t"),
        *_of("Swin", "timm", "swin_tiny_patch4_window7_224", img_size=64),
        *_of("MLP-Mixer", "timm", "mixer_s32_224", "gmlp_ti16_224", "resmlp_12_224", size=64, img_size=64),
        *_of("other attention", "timm", "pit_ti_224", "levit_128s", "coat_lite_tiny", size=224),
        *_of("other attention", "timm", "xcit_nano_12_p16_224", "pvt_v2_b0", "poolformer_s12"),
        *_of("other attention", "timm", "edgenext_xx_small", "mobilevit_xxs", "efficientvit_b0"),
    )
}  # fmt: skip
"""By the name that `load_model` knows them by."""


def awakened(model: nn.Module) -> nn.Module:
    """`model` with fresh weights where a constructor leaves zeros, and as good as trained BatchNorm statistics."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and not bool(weight.any()):
                if weight.ndim > 1:
                    weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
                else:
                    weight.uniform_(0.5, 1.5, generator=generator)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


@dataclass(frozen=True)
class Found:
    """What was measured of one architecture."""

    entries: int
    """Entries of an input, d."""
    unsigned: float
    """Largest difference of a cosine of unsigned maps from float64."""
    signed: float
    """The same of signed maps, in units of 4/d."""
    maps: float
    """Largest difference of a map's entry, relative to the largest of that map."""
    signs: float
    """Share of signs that differ."""
    in_float64: float
    """`unsigned` of the model in float64, computed in the same way."""
    loop_unsigned: float
    """The first three, of a plain loop over the classes in the model's own float32."""
    loop_signed: float
    loop_maps: float
    strategy: str
    folded: str
    head: str
    milliseconds: float
    loop_milliseconds: float

    @property
    def exact(self) -> bool:
        """Whether the method that computes the maps is right."""
        return self.in_float64 <= SAME

    @property
    def near(self) -> bool:
        """Whether float32 is within the bounds too: no input sits on a kink to within its rounding."""
        return self.unsigned <= UNSIGNED and self.signed <= 1 + 1e-4


def measure(architecture: Architecture) -> Found:
    """Maps and cosines against float64, how they were computed, and the time of that."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GradgeoWarning)
        return _measured(architecture, caught)


def _measured(architecture: Architecture, caught: list[warnings.WarningMessage]) -> Found:
    model, x = architecture.model(), architecture.inputs(INPUTS)
    with torch.no_grad():
        temperature = max(1.0, float(model(x).abs().max()) / LARGEST)
    exact = looped(architecture.model().double(), x.double(), temperature)
    ours = saliency_maps(model, x, sign=False, temperature=temperature)
    how = _how(model, x, [str(w.message) for w in caught])
    signs = ours.sign()
    plain = looped(architecture.model(), x, temperature)  # a new model: one that stores tensors cannot be copied
    entries = x[0].numel()
    took, loop = (_milliseconds(lambda call=call: call(x[:1])) for call in (  # type: ignore[misc]
        lambda x: saliency_maps(model, x), lambda x: looped(model, x)))  # fmt: skip
    return Found(
        entries,
        _apart(ours, exact),
        _apart(signs, exact.sign()) * entries / 4,
        _relative(ours, exact),
        float((signs.double() != exact.sign()).double().mean()),
        _apart(saliency_maps(architecture.model().double(), x.double(), sign=False, temperature=temperature), exact),
        _apart(plain, exact),
        _apart(plain.sign(), exact.sign()) * entries / 4,
        _relative(plain, exact),
        *how,
        took,
        loop,
    )


def looped(model: nn.Module, x: Tensor, temperature: float = 1.0) -> Tensor:
    """The gradients (N, C, *input) by one plain backward pass for each class, in the model's own type."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf) / temperature
    losses = [
        nn.functional.cross_entropy(logits, torch.full((len(x),), i), reduction="sum") for i in range(logits.shape[1])
    ]
    return torch.stack([torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses], dim=1)


def _apart(ours: Tensor, exact: Tensor) -> float:
    """The largest difference of two cosines."""
    return float((cosine_similarity_matrix(ours.double()) - cosine_similarity_matrix(exact.double())).abs().max())


def _relative(ours: Tensor, exact: Tensor) -> float:
    off, size = ((t.flatten(2)).abs().amax(2) for t in (ours.double() - exact, exact))
    return float((off / size.clamp_min(1e-300)).max())


def _milliseconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMED):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


_NO_RULE = "There is a performance drop because we have not yet implemented the batching rule for "


def _how(model: nn.Module, x: Tensor, said: list[str]) -> tuple[str, str, str]:
    """How the classes were differentiated, how many BatchNorms were folded, and whether the head was found."""
    classifier = Classifier.of(model)
    fast = classifier.optimized(classifier.prepare(x))
    norms = [_norms(m) for m in (model, fast.model)]
    strategy = "together" if fast.batchable else "one by one"
    if slow := next((text.split("(", 1)[-1].rstrip(").") for text in said if "one by one" in text), None):
        strategy += f": {slow.removeprefix(_NO_RULE)[:60]}"
    head = "none" if fast.head is None else f"{fast.head.in_features} features"
    return strategy, f"{norms[0] - norms[1]} of {norms[0]}" if norms[0] else "none there", head


def _norms(model: object) -> int:
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules)


def run(suite: Suite) -> Page:
    """All of `ARCHITECTURES`, or those named with `--cases`."""
    page = Page("Other people's architectures: maps against the float64 loop")
    page.say(
        f"Random weights, {CLASSES} classes, {INPUTS} random images, cross-entropy, at a temperature that brings "
        f"logits below {LARGEST:g}. The reference is a plain loop over the classes in float64, over both images "
        "together: PyTorch itself (2.6 to 2.14) gives a wrong gradient for a batch of one where a BatchNorm comes "
        "before tokens, as in LeViT and XCiT. 'Cosines apart' is the largest difference of an entry of the CSM: "
        "of the model in float64, where nothing but the way the maps are made can be wrong, and in float32; for "
        "signed maps in units of 4/d, of which 1 are two signs. In brackets the same of the plain loop in "
        "float32. An input may sit on a ReLU's kink to within float32's rounding, and the one or the other way of "
        "making the maps take the other side of it than float64 does. Classes are differentiated together "
        "(`torch.func.vmap`) or one by one. Time is for the maps of one input on one thread of a busy machine, "
        "once, and as a ratio to that loop."
    )
    rows, wrong, kinks, threads = [], [], [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in suite.wanted(ARCHITECTURES):
            architecture = ARCHITECTURES[name]
            try:
                result = measure(architecture)
            except Exception as error:  # one that fails is a result as well, and not the end of the others
                wrong.append(f"{name} ({type(error).__name__}: {one_line(str(error))[:100]})")
                continue
            page.data[name] = {"family": architecture.family, "size": architecture.size, **vars(result)}
            wrong += [] if result.exact else [name]
            kinks += [] if result.near else [name]
            rows.append(
                [architecture.family, name, str(architecture.size), f"{result.in_float64:.0e}",
                 f"{result.unsigned:.0e} ({result.loop_unsigned:.0e})",
                 f"{result.signed:.2f} ({result.loop_signed:.2f})", f"{result.maps:.0e} ({result.loop_maps:.0e})",
                 f"{100 * result.signs:.3f}", result.strategy, result.folded, result.head, f"{result.milliseconds:.0f}",
                 f"{result.loop_milliseconds / result.milliseconds:.1f}"]
            )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    page.table(
        ["family", "model", "pixels", "cosines apart, float64", "float32", "signed, x d/4", "maps apart, relative",
         "signs that differ, %", "classes", "BatchNorm folded", "head", "ms", "times the loop"],
        rows,
    )  # fmt: skip
    page.say(
        f"{len(rows)} architectures. Failed, or wrong in float64 (beyond {SAME:g}): {', '.join(wrong) or 'none'}. An "
        f"input on a kink in float32 (beyond {UNSIGNED:g} or two signs): {', '.join(kinks) or 'none'}."
    )
    return page
