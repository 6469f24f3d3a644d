"""A classifier and its gradient as two graphs of tensor operators: one forward, one that pulls cotangents back.

Logits, features and the gradient for one cotangent are traced together, as autograd makes them; the trace is then
split by what depends on the cotangent. So the forward graph runs once an input, and the backward graph, which takes
what the forward one saved, once for all cotangents: they go through it as further rows of the batch.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.classifier.prepared import clean
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.errors import ExportError
from gradgeo.export import torch_internals
from gradgeo.export.rules import backward_rules
from gradgeo.geometry.vjp import gradient


class Split(nn.Module):
    """The two graphs of a classifier, for any batch size.

    Args:
        classifier: the model's.
        x: prepared inputs (N, *input), N >= 2, for the trial of folding and for shapes.

    Raises:
        ExportError: the model cannot be traced.
    """

    def __init__(self, classifier: Classifier, x: Tensor) -> None:
        super().__init__()
        x = clean(x).x
        with preserve_state(x, recurrent=classifier.recurrent):
            copy = OptimizedModel(classifier.module, private=classifier.private, x=x, traced=True)
            leaf = x.clone().requires_grad_()
            logits, features, made = copy(leaf.clone())
            spans = made and features is not None and features.shape[1] < logits.shape[1] and features.requires_grad
            self.features = features is not None
            self.rank = features.shape[1] if spans and features is not None else logits.shape[1]
            """How many gradients span all others."""
            weight = copy.head.weight.detach() if spans and copy.head is not None else None
            self.weight = None if weight is None else nn.Buffer(weight.contiguous())
            self.trace = joint = _traced(copy, x, self.rank, spans=bool(spans), features=self.features)
        self.forward_graph, self.backward_graph, self._axes = _halves(joint.graph, 1 + self.features)
        self.tiles = True
        """Whether cotangents are further rows of one backward pass, or have one each."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Logits (N, C) of finite inputs, features (N, F) or None, and what the backward graph wants to know."""
        logits, *rest = self.forward_graph(x)
        return logits, rest.pop(0) if self.features else None, rest

    def vjp(self, saved: list[Tensor], cotangents: Tensor) -> Tensor:
        """J^T v for each of the cotangents (K, N, R), (K, N, *input)."""
        k, n, _ = cotangents.shape
        if not self.tiles:
            return torch.stack([self.backward_graph(row, *saved) for row in cotangents.unbind(0)])
        rows = [t if axis is None else _tiled(t, axis, k) for t, axis in zip(saved, self._axes, strict=True)]
        pulled: Tensor = self.backward_graph(cotangents.flatten(0, 1), *rows)
        return pulled.view(k, n, *pulled.shape[1:])


def _tiled(tensor: Tensor, axis: int, times: int) -> Tensor:
    return tensor.repeat(*[times if d == axis else 1 for d in range(tensor.ndim)]) if times > 1 else tensor


def _scaled(rows: Tensor, factor: Tensor, axis: int) -> Tensor:
    """The product with a factor of each input, which stands for all rows of that input: tiling it would cost more."""
    n = factor.shape[axis]
    if rows.shape[axis] == n:
        return rows * factor
    scaled: Tensor = rows.unflatten(axis, (-1, n)) * factor.unsqueeze(axis)
    return scaled.flatten(axis, axis + 1)


def _traced(copy: OptimizedModel, x: Tensor, rank: int, *, spans: bool, features: bool) -> torch_internals.Trace:
    def joint(x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        leaf = x.detach().requires_grad_()
        logits, entered, _ = copy(leaf.clone())
        source = entered if spans and entered is not None else logits
        pulled = gradient(source, leaf, cotangent)
        return (logits, *((entered,) if features and entered is not None else ()), pulled)

    world = torch_internals.Symbolic()
    batch = world.batch(x)
    known = torch_internals.known_rules()
    inputs = (batch, world.beside(batch, rank))
    try:
        graph = world.trace(joint, inputs, {**known, **backward_rules(known)})
    except Exception as error:  # whatever foreign code does when its tensors have no values
        raise ExportError(_why(error)) from error
    if torch_internals.fixed(batch):
        raise ExportError(
            "the model fixes the batch size, by len(x) or int(x.shape[0]) in its forward. Write x.shape[0], or -1 in a "
            "reshape."
        )
    return torch_internals.Trace(world, graph, inputs)


def _why(error: BaseException) -> str:
    """What of the model cannot be traced, in words."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    deepest = chain[-1]
    if any(isinstance(link, torch_internals.READS_VALUES) for link in chain):
        return (
            "the model decides by the values of its tensors (an if, a loop, .item(), or indexing by a mask), and a "
            "graph holds one course of events only. Write the choice with torch.where, or serve the model in Python."
        )
    text = str(deepest).strip().splitlines()
    return (
        f"the model cannot be traced with a batch size that varies: {type(deepest).__name__}: "
        f"{text[0][:200] if text else ''}. Serve it in Python instead, or rewrite that part of it."
    )


def _halves(joint: fx.GraphModule, outputs: int) -> tuple[fx.GraphModule, fx.GraphModule, list[int | None]]:
    """The graph x -> outputs and what is saved, the graph (v, *saved) -> gradient, and along which axis each saved
    tensor is to be tiled, None for those that are not."""
    nodes = list(joint.graph.nodes)
    x, cotangent = (node for node in nodes if node.op == "placeholder")
    sizes, later, constant = _kinds(nodes, x, cotangent)
    (returned,) = (node for node in nodes if node.op == "output")
    *made, pulled = returned.args[0]

    needed = _ancestors([pulled], stop=lambda node: node not in later)
    saved = [n for n in needed if n not in later and n not in sizes and n not in constant and n is not cotangent]
    forward = fx.Graph()
    environment = {x: forward.placeholder("x")}
    at_hand = {node for node in nodes if node not in later}
    for node in _ancestors([*made[:outputs], *saved], stop=torch_internals.reads_size):
        if node in at_hand and node not in environment and node is not cotangent:
            environment[node] = _copied(forward, node, environment, x)
    forward.output(tuple(environment[node] for node in (*made[:outputs], *saved)))

    backward = fx.Graph()
    environment = {cotangent: backward.placeholder("cotangent")}
    for i, node in enumerate(saved):
        environment[node] = backward.placeholder(f"saved_{i}")
    own = _ancestors([pulled], stop=lambda node: node in environment or torch_internals.reads_size(node))
    axes = {node: _batch_axis(node) for node in saved}
    factors = {node for node in saved if _is_factor(node, axes[node], [user for user in node.users if user in own])}
    for node in own:
        if node in environment or node is x:
            continue
        factor = next((i for i in node.all_input_nodes if i in factors), None)
        if factor is None:
            environment[node] = _copied(backward, node, environment, cotangent)
        else:
            (other,) = (i for i in node.all_input_nodes if i is not factor)
            operands = (environment[other], environment[factor], axes[factor])
            environment[node] = backward.call_function(_scaled, operands)
    backward.output(environment[pulled])
    halves = [fx.GraphModule(joint, graph) for graph in (forward, backward)]
    for half in halves:
        half.graph.eliminate_dead_code()
        half.recompile()
    return halves[0], halves[1], [None if node in factors else axes[node] for node in saved]


def _kinds(nodes: list[fx.Node], x: fx.Node, cotangent: fx.Node) -> tuple[set[fx.Node], set[fx.Node], set[fx.Node]]:
    """The nodes that depend on sizes alone, those that depend on the cotangent, and the constants."""
    sizes: set[fx.Node] = set()
    later, constant = {cotangent}, set()
    for node in nodes:
        if node.op == "get_attr":
            constant.add(node)
        if node.op != "call_function":
            continue
        inputs = node.all_input_nodes
        if torch_internals.reads_size(node):
            sizes.add(node)
        elif any(i in later for i in inputs):
            later.add(node)
        elif all(i in constant for i in inputs):
            constant.add(node)
        elif all(i in constant or i in sizes for i in inputs):
            sizes.add(node)
    return sizes, later, constant


def _ancestors(targets: Iterable[fx.Node], stop: Any) -> list[fx.Node]:
    """What `targets` are made of, themselves included, in the order of the graph; not what lies behind a `stop`."""
    seen: set[fx.Node] = set()
    left = list(targets)
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if not stop(node):
            left += node.all_input_nodes
    return sorted(seen)


def _copied(graph: fx.Graph, node: fx.Node, environment: dict[fx.Node, fx.Node], batch: fx.Node) -> fx.Node:
    """`node` in another graph; a size is read off `batch`, for that graph has batches of its own."""
    if not torch_internals.reads_size(node):
        return graph.node_copy(node, lambda n: environment[n])
    times = torch_internals.multiple(node.meta["val"])
    if times is None:
        raise ExportError(
            "the model makes tensors whose size is no multiple of the batch size, by slicing or padding the batch. "
            "Serve it in Python instead."
        )
    size = graph.create_node("call_function", node.target, (environment[batch], 0), {})
    return size if times == 1 else graph.call_function(operator.mul, (size, times))


def _is_factor(node: fx.Node, axis: int | None, users: list[fx.Node]) -> bool:
    """Whether all that is done with it is to multiply rows of the batch."""
    shape = [torch_internals.varying(size) for size in node.meta["val"].shape]

    def alike(value: Any) -> bool:
        return isinstance(value, Tensor) and [torch_internals.varying(size) for size in value.shape] == shape

    return axis is not None and all(
        user.target is torch.ops.aten.mul.Tensor
        and len(user.all_input_nodes) == 2
        and all(alike(i.meta["val"]) for i in user.all_input_nodes)
        for user in users
    )


def _batch_axis(node: fx.Node) -> int | None:
    value = node.meta["val"]
    if torch_internals.is_number(value):
        raise ExportError("the model computes with a number read off its tensors. Keep it a tensor.")
    axes = [dim for dim, size in enumerate(value.shape) if torch_internals.varying(size)]
    if len(axes) > 1:
        raise ExportError(
            "the model compares the inputs of a batch with each other, so there is no score of one input."
        )
    return axes[0] if axes else None
