"""The private functions of PyTorch that exporting rests on do what it needs; a new PyTorch that breaks them fails here."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradgeo.export import torch_internals
from gradgeo.export.torch_internals import Symbolic, Trace

aten = torch.ops.aten


@pytest.mark.export
def test_only_the_batch_is_a_symbol() -> None:
    x = Symbolic().batch(torch.rand(3, 3, 8))
    assert [torch_internals.varying(size) for size in x.shape] == [True, False, False]
    assert not torch_internals.fixed(x)


@pytest.mark.export
def test_a_trace_serves_other_batch_sizes_and_holds_no_operator_in_place() -> None:
    world = Symbolic()
    x = world.batch(torch.rand(3, 4))
    layer = nn.Linear(4, 2).requires_grad_(False)

    def function(x: Tensor, v: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(torch.relu_(layer(leaf)), leaf, v)
        return found

    graph = world.trace(function, (x, world.beside(x, 2)), torch_internals.known_rules())
    assert not any(node.target._schema.is_mutable for node in graph.graph.nodes if hasattr(node.target, "_schema"))
    x, v = torch.rand(7, 4), torch.rand(7, 2)
    assert torch.allclose(graph(x, v), (v * (layer(x) > 0)) @ layer.weight)


def test_a_size_that_was_made_a_number_shows() -> None:
    x = Symbolic().batch(torch.rand(3, 4))
    len(x)
    assert torch_internals.fixed(x)


def test_reading_a_value_raises_what_we_look_for() -> None:
    world = Symbolic()
    x = world.batch(torch.rand(3, 4))
    with pytest.raises(torch_internals.READS_VALUES, match="data-dependent"):
        world.trace(lambda x: x * 2 if x.sum() > 0 else x, (x,), {})


def test_backward_operators_have_rules() -> None:
    rules = torch_internals.known_rules()
    assert {aten.gelu_backward.default, aten.native_layer_norm_backward.default, aten.slice_backward.default} <= {
        *rules
    }


@pytest.mark.export
@pytest.mark.parametrize(("function", "unknown"), [(torch.digamma, ["prims.digamma.default"]), (torch.square, [])])
def test_operators_without_an_onnx_form_are_told(function: Callable[[Tensor], Tensor], unknown: list[str]) -> None:
    world = Symbolic()
    x = world.batch(torch.rand(3, 4))
    assert Trace(world, world.trace(function, (x,), {}), (x,)).without_onnx() == unknown
