"""The joint trace of a classifier and its gradient, cut into a forward and a backward graph.

The joint graph takes x and one cotangent v. What depends on v is the backward graph; all else is the forward one, and
what crosses the cut is saved. In the backward graph several cotangents of an input are further rows of the batch, so
that whatever was saved of an input has to be repeated for each of its cotangents, along the axis that is its batch.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from gradgeo.errors import ExportError
from gradgeo.export import torch_internals


@dataclass(frozen=True)
class Partition:
    """The two halves of a joint trace (x, v) -> (*outputs, J^T v)."""

    forward: fx.GraphModule
    """x (N, *input) -> (*outputs, *saved)."""
    backward: fx.GraphModule
    """(v (K N, R), *saved, repeated K times) -> J^T v (K N, *input)."""
    axes: list[int | None]
    """Along which axis each saved tensor is to be repeated; None for those that are not."""


def partition(joint: fx.GraphModule, outputs: int) -> Partition:
    """Cut a trace with this number of outputs before the gradient.

    Raises:
        ExportError: an operator mixes the inputs of a batch, or makes tensors of another batch size.
    """
    nodes = list(joint.graph.nodes)
    x, cotangent = (node for node in nodes if node.op == "placeholder")
    (returned,) = (node for node in nodes if node.op == "output")
    *results, gradient = returned.args[0]
    kinds = _Kinds.of(nodes, cotangent)
    saved = kinds.saved_for(gradient, cotangent)
    forward = _forward(x, [*results[:outputs], *saved], kinds)
    backward, axes = _backward(cotangent, gradient, x, saved)
    halves = [fx.GraphModule(joint, graph) for graph in (forward, backward)]
    for half in halves:
        half.graph.eliminate_dead_code()
        half.recompile()
    return Partition(halves[0], halves[1], axes)


@dataclass(frozen=True)
class _Kinds:
    """What the nodes of a joint trace depend on."""

    sizes: set[fx.Node]
    """On sizes alone: each graph computes these anew, for the backward one has K times the rows."""
    backward: set[fx.Node]
    """On the cotangent."""
    constant: set[fx.Node]
    """On nothing but weights."""

    @classmethod
    def of(cls, nodes: list[fx.Node], cotangent: fx.Node) -> "_Kinds":
        kinds = cls(set(), {cotangent}, set())
        for node in nodes:
            if node.op == "get_attr":
                kinds.constant.add(node)
            if node.op != "call_function":
                continue
            inputs = node.all_input_nodes
            if torch_internals.reads_size(node):
                kinds.sizes.add(node)
            elif any(i in kinds.backward for i in inputs):
                kinds.backward.add(node)
            elif all(i in kinds.constant for i in inputs):
                kinds.constant.add(node)
            elif all(i in kinds.constant or i in kinds.sizes for i in inputs):
                kinds.sizes.add(node)
        return kinds

    def saved_for(self, gradient: fx.Node, cotangent: fx.Node) -> list[fx.Node]:
        """What the backward graph takes from the forward one."""
        needed = _ancestors([gradient], stop=lambda node: node not in self.backward)
        own = {cotangent} | self.backward | self.sizes | self.constant
        return [node for node in needed if node not in own]


def _forward(x: fx.Node, outputs: list[fx.Node], kinds: _Kinds) -> fx.Graph:
    graph = fx.Graph()
    copies = {x: graph.placeholder("x")}
    for node in _ancestors(outputs, stop=torch_internals.reads_size):
        if node not in kinds.backward and node not in copies:
            copies[node] = _copied(graph, node, copies, x)
    graph.output(tuple(copies[node] for node in outputs))
    return graph


def _backward(
    cotangent: fx.Node, gradient: fx.Node, x: fx.Node, saved: list[fx.Node]
) -> tuple[fx.Graph, list[int | None]]:
    graph = fx.Graph()
    copies = {cotangent: graph.placeholder("cotangent")}
    for i, node in enumerate(saved):
        copies[node] = graph.placeholder(f"saved_{i}")
    own = _ancestors([gradient], stop=lambda node: node in copies or torch_internals.reads_size(node))
    axes = {node: _batch_axis(node) for node in saved}
    factors = {node for node in saved if _is_factor(node, axes[node], [user for user in node.users if user in own])}
    for node in own:
        if node in copies or node is x:
            continue
        factor = next((i for i in node.all_input_nodes if i in factors), None)
        if factor is None:
            copies[node] = _copied(graph, node, copies, cotangent)
        else:
            (other,) = (i for i in node.all_input_nodes if i is not factor)
            copies[node] = graph.call_function(_scaled, (copies[other], copies[factor], axes[factor]))
    graph.output(copies[gradient])
    return graph, [None if node in factors else axes[node] for node in saved]


def _scaled(rows: Tensor, factor: Tensor, axis: int) -> Tensor:
    """The product with a factor of each input, which stands for all rows of that input: tiling it would cost more."""
    n = factor.shape[axis]
    if rows.shape[axis] == n:
        return rows * factor
    scaled: Tensor = rows.unflatten(axis, (-1, n)) * factor.unsqueeze(axis)  # (..., K, N, ...)
    return scaled.flatten(axis, axis + 1)


def _ancestors(targets: Iterable[fx.Node], stop: Callable[[fx.Node], bool]) -> list[fx.Node]:
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


def _copied(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node], batch: fx.Node) -> fx.Node:
    """`node` in another graph; a size is read off `batch`, for that graph has batches of its own."""
    if not torch_internals.reads_size(node):
        return graph.node_copy(node, lambda n: copies[n])
    times = torch_internals.multiple(node.meta["val"])
    if times is None:
        raise ExportError(
            "the model makes tensors whose size is no multiple of the batch size, by slicing or padding the batch. "
            "Serve it in Python instead."
        )
    size = graph.create_node("call_function", node.target, (copies[batch], 0), {})
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
