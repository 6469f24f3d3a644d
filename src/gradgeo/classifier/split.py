"""A classifier cut in two at an inner layer, so that gradients end at a feature map and cost less."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, fx, nn

from gradgeo.classifier.logits import logits_of
from gradgeo.classifier.optimized import AGREEMENT
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.errors import ModelError, expected, public

_INNER = "model"


@public
def tap(model: nn.Module, layer: str, x: Tensor) -> tuple[nn.Module, nn.Module]:
    """Cut a classifier behind `layer`: two modules of which the second makes the logits of what the first puts out.

    A detector of the second half, fitted on outputs of the first, takes its gradients at that feature map. A backward
    pass then ends there, and costs the less the deeper the map lies; what is seen is another thing, and how well that
    detects is for you to measure: results/engine.md has it for a ResNet-20 at each of its stages.

    Args:
        model: the classifier; a private copy in eval mode is cut, which shares its weights. It must be one that
            `torch.fx` can trace: no control flow that depends on the input.
        layer: the name of one of its modules, as `model.named_modules()` gives it, called once in a forward pass.
            Nothing may lead past it to the logits.
        x: a few inputs (N, *input), on which the halves must give the logits of the whole.

    Returns:
        The first half, inputs (N, *input) to feature maps (N, *map), without gradients; and the second, feature maps
            to what `model` returns.

    Cost: two forward passes of `x`, and one call with stand-ins for tensors, during which no other thread should call
        a model (`torch.fx` swaps `nn.Module.__call__`).

    Raises:
        ArgumentError: `model` is no module, has no such layer, or `x` holds no usable input. ModelError: the model
            cannot be traced; the layer is called never or often, puts out no tensor (N, *map), or is led past; or the
            halves give other logits than the whole.

    Example:
        >>> import torch, gradgeo
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
        >>> front, rest = gradgeo.tap(model, "1", torch.rand(2, 1, 8, 8))
        >>> trusted = torch.rand(200, 1, 8, 8)
        >>> detector = gradgeo.Detector(rest, evidence="fast").fit(front(trusted))
        >>> detector.predict(front(torch.rand(5, 1, 8, 8))).trusted.shape
        torch.Size([5])
    """
    if not isinstance(model, nn.Module):
        raise expected("model", "a torch.nn.Module", model)
    classifier = Classifier(model)
    whole = cast(nn.Module, classifier.module)
    names = [name for name, _ in whole.named_modules() if name]
    if layer not in names:
        raise expected("layer", f"one of {_some(names)}", layer, "model.named_modules() lists them.")
    batch = classifier.prepare(x)
    if not bool(batch.usable.any()):
        raise expected("x", "at least one input without NaN or infinity", x)
    x = batch.x[batch.usable]
    with preserve_state(x, recurrent=classifier.recurrent), torch.no_grad():
        front, rest = _cut(whole, layer)
        _compare(classifier(x.clone()), front, rest, x, layer)
    return front, rest


class _Front(nn.Module):
    """The first half: in eval mode, without gradients."""

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self._layer = layer
        self.module = module

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        maps = self.module(x.clone())  # it may work in place
        if not isinstance(maps, Tensor) or maps.ndim < 2 or len(maps) != len(x) or not maps.is_floating_point():
            shown = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ModelError(
                f"expected layer {self._layer!r} to put out one feature map per input, of shape (N, *map), for N "
                f"= {len(x)}, got {shown}. Choose a layer whose output is such a tensor."
            )
        return maps


class _Whole(nn.Module):
    """The model with nothing but its first argument: the others keep their defaults, seen as Python values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.add_module(_INNER, model)

    def forward(self, x: Tensor) -> object:
        return self.get_submodule(_INNER)(x)


class _Tracer(fx.Tracer):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m is self._layer or super().is_leaf_module(m, module_qualified_name)


def _cut(model: nn.Module, layer: str) -> tuple[nn.Module, nn.Module]:
    root = _Whole(model).eval()
    try:
        graph = _Tracer(model.get_submodule(layer)).trace(root)
    except Exception as error:  # foreign code, called with stand-ins for tensors
        raise ModelError(
            f"the model cannot be traced ({type(error).__name__}: {error}), so it cannot be cut. Write its halves as "
            "two modules of your own; the second is a classifier like any other."
        ) from error
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == f"{_INNER}.{layer}"]
    if len(calls) != 1:
        raise ModelError(f"layer {layer!r} is called {len(calls)} times in a forward pass, and only once can be cut.")
    (entry,) = (node for node in graph.nodes if node.op == "placeholder")
    (end,) = (node for node in graph.nodes if node.op == "output")
    behind, of_input = _reached(graph, calls[0]), _reached(graph, entry)
    if end not in behind:
        raise ModelError(f"the logits do not depend on the output of layer {layer!r}. Choose another.")
    past = [
        source
        for node in graph.nodes
        if node in behind and node is not calls[0]
        for source in node.all_input_nodes
        if source in of_input and source not in behind
    ]
    if past:
        raise ModelError(
            f"the logits depend on the input past layer {layer!r} as well, by way of {past[0].format_node()}. Choose "
            "a layer that everything goes through, such as a whole stage."
        )
    front = _part(root, graph, [n for n in graph.nodes if n not in behind or n is calls[0]], calls[0])
    rest = _part(root, graph, [n for n in graph.nodes if n not in of_input or n in behind], None, calls[0])
    return _Front(front, layer).eval(), rest


def _reached(graph: fx.Graph, start: fx.Node) -> set[fx.Node]:
    """`start` and every node that depends on it."""
    reached = {start}
    for node in graph.nodes:  # in the order of the calls
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return reached


def _part(
    root: nn.Module, graph: fx.Graph, nodes: Iterable[fx.Node], out: fx.Node | None, entry: fx.Node | None = None
) -> nn.Module:
    """The `nodes` of `graph` as a module whose input is the value of `entry`, and whose output is that of `out`.

    `torch.fx.passes.split_module` would hand values between the halves that depend on weights alone, such as a scaled
    parameter; here each half computes its own, so that one feature map is all that passes.
    """
    part, copies = fx.Graph(), {}
    if entry is not None:
        copies[entry] = part.placeholder("features")
    for node in nodes:
        if node is not entry:
            copies[node] = part.node_copy(node, copies.__getitem__)
    if out is not None:
        part.output(copies[out])
    for node in list(part.nodes):
        if node.op == "get_attr" and not node.users:  # a weight of the other half
            part.erase_node(node)
    return fx.GraphModule(root, part)  # in the mode of its root


def _compare(logits: Tensor, front: nn.Module, rest: nn.Module, x: Tensor, layer: str) -> None:
    off = float((logits_of(rest, front(x.clone())) - logits).abs().max())
    if not off <= AGREEMENT.get(logits.dtype, 5e-2) * float(logits.abs().max()):
        raise ModelError(
            f"cut behind layer {layer!r} the model gives logits that are off by up to {off:.3g}: it does something "
            "that a trace does not see. Write its halves as two modules of your own."
        )


def _some(names: list[str]) -> str:
    shown = [name for name in names if name.count(".") < 2][:12]
    return ", ".join(map(repr, shown)) + (" ..." if len(shown) < len(names) else "")
