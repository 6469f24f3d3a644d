"""Chunks are the same in every run, and a measure is given the rows that it measures."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.errors import ArgumentError, GradgeoWarning
from gradgeo.geometry import chunking
from gradgeo.geometry import vjp as engine
from gradgeo.geometry.chunking import map_chunks, memory_for
from gradgeo.geometry.jacobian import MAP_BYTES, InputJacobian
from gradgeo.geometry.options import Maps
from helpers.folding import Residual, trained

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


@pytest.mark.parametrize("channel_max", [False, True])
@pytest.mark.parametrize("sign", [False, True])
def test_many_classes_equal_their_maps_cosines_in_any_budget(sign: bool, channel_max: bool) -> None:
    torch.manual_seed(0)
    model, x = trained(Residual(300, 6)), torch.rand(5, 3, 9, 8)
    x[3, 0, 0, 0] = torch.nan
    options = {"sign": sign, "channel_max": channel_max}
    with pytest.warns(GradgeoWarning, match="1 of 5"):
        maps = gradgeo.saliency_maps(model.double(), x, **options)
    exact = gradgeo.cosine_similarity_matrix(maps)
    model.float()
    with pytest.raises(ArgumentError) as refused:
        gradgeo.csm(model, x, memory_budget=1000, **options)
    for budget in (None, the_least(refused.value), 20_000_000):
        with pytest.warns(GradgeoWarning, match="1 of 5"):
            ours = gradgeo.csm(model, x, memory_budget=budget, **options)
        assert ours.dtype == torch.float32
        assert torch.equal(ours.isnan(), exact.isnan())
        assert (ours - exact).abs().nan_to_num(0).max() <= (4 / (72 if channel_max else 216) if sign else 1e-4)


def test_a_budget_too_small_for_one_sample_says_the_least() -> None:
    model, x = trained(Residual(300, 6)), torch.rand(2, 3, 9, 8)
    for call in (gradgeo.csm, gradgeo.saliency_maps):
        with pytest.raises(ArgumentError, match=r"expected memory_budget to be at least [\d,]+ bytes, what one sample"):
            call(model, x, memory_budget=1000)
        with pytest.raises(ArgumentError, match="expected memory_budget to be a positive number of bytes or None"):
            call(model, x, memory_budget=0)
    with pytest.raises(ArgumentError) as refused:
        gradgeo.csm(model, x, memory_budget=1000)
    assert gradgeo.csm(model, x, memory_budget=the_least(refused.value)).shape == (2, 300, 300)


def the_least(refusal: ArgumentError) -> int:
    """The bytes that a refused budget should have been."""
    return int(str(refusal).split("at least ")[1].split(" ")[0].replace(",", ""))


PEAK = """
import resource, sys, threading, time, torch, gradgeo
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
n, sign, classes, budget = int(sys.argv[1]), sys.argv[2] == "signed", eval(sys.argv[3]), int(sys.argv[4]) << 20
net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 600))
gradgeo.csm(net, torch.rand(2, 3, 48, 48))  # what libraries allocate once
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
x, most, done = torch.rand(n, 3, 48, 48), [0], []
def watch():
    while not done:
        most[0] = max(most[0], resident())
        time.sleep(0.002)
before = resident()
thread = threading.Thread(target=watch)
thread.start()
try:
    result = gradgeo.csm(net, x, sign=sign, classes=classes, memory_budget=budget)
finally:
    done.append(1)
    thread.join()
print((most[0] - before - result.numel() * 4) / budget)
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory that Linux reports")
@pytest.mark.parametrize("kind", ["signed", "unsigned"])
@pytest.mark.parametrize(("n", "classes", "budget"), [(2, None, 256), (48, None, 256), (48, 10, 64)])
def test_a_pass_stays_within_its_budget(n: int, classes: int | None, budget: int, kind: str) -> None:
    command = [sys.executable, "-c", PEAK, str(n), kind, str(classes), str(budget)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(made.stdout) <= 1.15


def test_the_gradients_that_span_all_maps_are_made_once_within_the_usual_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    passes: list[int] = []
    once = engine.gradient
    monkeypatch.setattr(engine, "gradient", lambda *args: passes.append(1) or once(*args))
    gradgeo.csm(trained(Residual(300, 6)), torch.rand(9, 3, 9, 8))
    assert len(passes) == 6
