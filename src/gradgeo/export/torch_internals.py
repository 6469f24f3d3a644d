"""The private functions of PyTorch that exporting rests on, all of them.

tests/export/test_torch_internals.py fails where a new PyTorch breaks one. Other modules of this package use PyTorch's
public functions and these.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions, global_decomposition_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

READS_VALUES = (GuardOnDataDependentSymNode,)
"""What PyTorch raises when Python asks for the value of a tensor that is being traced."""


class Symbolic:
    """A world of tensors without values in which only the batch size is a symbol."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def batch(self, x: Tensor) -> Tensor:
        """A tensor without values, shaped as `x` but for its first size, a symbol."""
        sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (x.ndim - 1)]
        return self.mode.from_tensor(x, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))

    def beside(self, x: Tensor, *shape: int) -> Tensor:
        """A further one with the first size of `x`, (N, *shape)."""
        with self.mode:
            return x.new_empty(x.shape[0], *shape)

    def trace(self, function: Callable[..., Any], inputs: tuple[Tensor, ...], rules: dict[Any, Any]) -> fx.GraphModule:
        """`function` as a graph of operators in the terms of `rules`, without in-place ones."""
        with _plain_attention():
            graph = make_fx(function, rules, "symbolic", _allow_non_fake_inputs=True)(*inputs)
            if any(_in_place(node) for node in graph.graph.nodes):
                pure = torch.func.functionalize(graph, remove="mutations")
                graph = make_fx(pure, rules, "symbolic", _allow_non_fake_inputs=True)(*inputs)
        return graph


def known_rules() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions to core operators, and of every backward operator that has one."""
    every: dict[Any, Callable[..., Any]] = global_decomposition_table["post_autograd"]
    backward = {operator: rule for operator, rule in every.items() if "backward" in str(operator)}
    return {**core_aten_decompositions(), **backward}


def varying(size: Any) -> bool:
    """Whether a size depends on that of the batch."""
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def fixed(batch: Tensor) -> bool:
    """Whether tracing has turned the first size of `Symbolic.batch` into a number."""
    size: Any = batch.shape[0]
    return bool(size.node.shape_env.replace(size.node.expr).is_number)


def is_number(value: Any) -> bool:
    """Whether a traced value is a size or computed of sizes, not a tensor."""
    return isinstance(value, int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)


def reads_size(node: fx.Node) -> bool:
    """Whether it is the size of a tensor along an axis."""
    return node.target is torch.ops.aten.sym_size.int


def multiple(value: Any) -> int | None:
    """How many times the batch size a traced size is; None if it is no multiple of it."""
    expression = value.node.expr
    (symbol,) = expression.free_symbols
    ratio = expression / symbol
    return int(ratio) if ratio.is_integer else None


def in_float64(graph: fx.GraphModule) -> fx.GraphModule:
    """The same graph with float64 for float32, in its constants and in the types that operators are asked for."""
    lifted = fx.Graph()
    lifted.output(lifted.graph_copy(graph.graph, {}))
    constants: dict[str, Any] = {}
    for node in lifted.nodes:
        if node.op == "get_attr":
            constant = getattr(graph, node.target)
            constants[node.target] = constant.double() if constant.dtype == torch.float32 else constant
        elif node.op == "call_function":
            node.args, node.kwargs = (map_aggregate(of, _as_float64) for of in (node.args, node.kwargs))
    return fx.GraphModule(constants, lifted)


def _as_float64(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


@dataclass(frozen=True)
class Trace:
    """A graph and the inputs without values that it was traced with."""

    world: Symbolic
    graph: fx.GraphModule
    inputs: tuple[Tensor, ...]

    def without_onnx(self) -> list[str]:
        """The operators that torch.onnx cannot write, neither as they are nor taken apart."""
        from torch.onnx._internal.exporter import _decomp
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        known = ONNXRegistry.from_torchlib()

        def unknown(graph: fx.GraphModule) -> set[Any]:
            targets = (n.target for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload))
            return {target for target in targets if not known.is_registered(target)}

        if not unknown(self.graph):
            return []
        apart = _decomp.create_onnx_friendly_decomposition_table(set(_decomp.get_onnx_implemented_overloads(known)))
        return sorted(map(str, unknown(self.world.trace(self.graph, self.inputs, apart))))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as plain products and a softmax, pools of everything as a mean: their other forms have no ONNX form or
    none for the gradient."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_PoolsAsMeans())
        yield


class _PoolsAsMeans(TorchFunctionMode):
    """adaptive_avg_pool2d to 1 x 1 as a mean: for channels-last inputs PyTorch's own records a restriding."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.adaptive_avg_pool2d and not kwargs and args[1] in (1, (1, 1), [1, 1]):
            return args[0].mean((-1, -2), keepdim=True)
        return func(*args, **(kwargs or {}))


def _in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
