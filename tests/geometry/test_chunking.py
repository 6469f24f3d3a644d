"""Chunks are the same in every run, and a measure is given the rows that it measures."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.geometry import chunking
from gradgeo.geometry.chunking import map_chunks, memory_for
from gradgeo.geometry.jacobian import MAP_BYTES, InputJacobian
from gradgeo.geometry.options import Maps

GIB = 1 << 30
CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 40 * 40, 9), nn.Tanh(), nn.Linear(9, 40)).eval()


def chunks(model: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    def rows_of(jacobian: InputJacobian, rows: slice) -> tuple[int, int]:
        return rows.start, rows.stop

    return map_chunks(model, [x], Maps(), rows_of, at_most=1000)


@pytest.mark.parametrize("free", [1, 200 << 20, 3 * GIB])
@pytest.mark.parametrize("available", [2 * GIB, 5 * GIB, 500 * GIB])
def test_the_same_chunks_whatever_is_free(available: int, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks decide how sums are rounded, and so the signs of entries near zero."""
    model, x = network(), torch.rand(1000, 3, 40, 40)
    monkeypatch.setattr(chunking, "MAP_BYTES", GIB >> 2)
    expected = chunks(model, x)
    assert len(expected) > 1
    monkeypatch.setattr("os.sysconf", {"SC_AVPHYS_PAGES": free // 4096, "SC_PAGE_SIZE": 4096}.get)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available, free=free))
    assert chunks(model, x) == expected


def test_less_where_memory_does_not_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, budget in ((2 * GIB, MAP_BYTES), (2 * GIB - 1, GIB // 2), (300 << 20, 128 << 20), (0, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda available=available: SimpleNamespace(available=available))
        assert memory_for(None, CPU) == budget
        assert memory_for(12345, CPU) == 12345


def test_a_measure_is_given_its_rows_among_all_inputs() -> None:
    model, parts = network(), torch.rand(10, 3, 40, 40).split([3, 1, 6])

    def measure(jacobian: InputJacobian, rows: slice) -> tuple[slice, Tensor]:
        return rows, jacobian.x

    found = map_chunks(model, parts, Maps(), measure, chunk_size=4)
    assert [rows for rows, _ in found] == [slice(0, 3), slice(3, 4), slice(4, 8), slice(8, 10)]
    assert torch.equal(torch.cat([x for _, x in found]), torch.cat(parts))


def test_a_shape_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    chunk_size = chunking.Plan.chunk_size.func
    monkeypatch.setattr(chunking.Plan.chunk_size, "func", lambda plan: planned.append(1) or chunk_size(plan))
    map_chunks(network(), torch.rand(9, 3, 40, 40).split(3), Maps(), lambda jacobian, rows: rows)
    assert len(planned) == 1


def test_classes_of_each_input_follow_their_rows() -> None:
    model, x, chosen = network(), torch.rand(5, 3, 40, 40), torch.randint(0, 40, (5, 1)) + torch.tensor([[0, 1, 2]])
    chosen = chosen % 40
    whole = gradgeo.saliency_maps(model, x)
    found = gradgeo.saliency_maps(model, x, classes=chosen, chunk_size=2)
    assert torch.equal(found, whole[torch.arange(5)[:, None], chosen])
