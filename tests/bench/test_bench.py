"""The battery and its runner: columns are what they say, methods see the same data, and nothing is lost when one fails."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import processes
from gradgeo.bench import cache
from gradgeo.bench import evaluate as evaluation
from gradgeo.bench.case import Case, Cases, count
from gradgeo.bench.methods import METHODS, Method
from gradgeo.bench.scenarios import COLUMNS, Column, Setting, shaped
from gradgeo.bench.scores import groups, scored
from gradgeo.bench.shared_passes import Panel
from gradgeo.bench.user_model import chosen_methods, own_columns, own_setting, shipped_settings
from gradgeo.detector.detector import Detector
from gradgeo.errors import ArgumentError, DataError

pytest.importorskip("pytorch_ood", reason="pytorch-ood is not installed")
QUICK = {name: METHODS[name] for name in ("gradgeo", "MaxSoftmax", "KNN")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def setting():
    return Setting(Cases(Path())["digits"], Cases(Path()), 40)


def alone(name: str, setting: Setting, x: torch.Tensor) -> np.ndarray:
    return scored({name: METHODS[name]}, setting.case, {"a": x})[name].scores["a"]


def test_columns_are_made_from_the_second_half_and_stay_within_bounds(setting):
    case = setting.case
    assert bool((case.logits[case.half :][case.right[case.half :]].argmax(1)[:40] == setting.y).all())
    for name, column in COLUMNS.items():
        if column.applies(setting):
            made = column.make(setting)
            x = getattr(made, "x", made)
            assert x.shape[1:] == case.x.shape[1:], name
            assert float(x.min()) >= 0, name
            assert float(x.max()) <= 1, name
            again = column.make(setting)
            assert torch.equal(x, getattr(again, "x", again)), name


def test_attack_columns_hold_only_successes_within_budget(setting):
    made = COLUMNS["PGD"].make(setting)
    predicted = setting.case.model(made.x).argmax(1)
    distance = (made.x[:, None] - setting.x).flatten(2).abs().amax(2)
    assert len(made.x) == round(made.success * len(setting.x))
    assert float(distance.amin(1).max()) <= 0.3 + 1e-6
    assert bool((predicted != setting.y[distance.argmin(1)]).all())


def test_a_run_has_every_part_and_is_json(setting, tmp_path):
    kept = {name: COLUMNS[name] for name in ("uniform noise", "PGD", "misclassified")}
    said = []
    result = evaluation.evaluate(setting, columns=kept, methods=QUICK, say=said.append)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["columns"]) == set(kept)
    assert set(result["cells"]) == set(QUICK)
    assert result["methods"]["gradgeo"]["peer"] is False
    assert any("KNN" in text for text in said)


def test_a_failing_method_and_a_missing_data_set_keep_their_place(setting):
    class Broken:
        def fit(self, loader):
            raise RuntimeError("no luck")

    columns = {"gone": Column("ood", lambda s: s.cases.read("svhn", 5)[0]), "constant": COLUMNS["constant"]}
    methods = {
        "broken": Method(lambda model, x: Broken()),
        "MaxSoftmax": METHODS["MaxSoftmax"],
        "gradgeo": METHODS["gradgeo"],
    }
    result = evaluation.evaluate(setting, columns=columns, methods=methods)
    assert result["methods"]["broken"]["error"] == "RuntimeError: no luck"
    assert "broken" not in result["cells"]
    assert "svhn" in result["columns"]["gone"]["error"]
    assert str(Path.home()) not in result["columns"]["gone"]["error"]
    assert set(result["cells"]["MaxSoftmax"]) == {"constant"}


def test_finished_chunks_are_not_scored_again(setting):
    calls = []

    class Counting:
        def fit(self, loader):
            calls.append("fit")

        def predict(self, x):
            calls.append(len(x))
            return x.flatten(1).sum(1)

    group = {"counting": Method(lambda model, x: Counting())}
    first = scored(group, setting.case, {"a": setting.x})["counting"]
    timed = ["fit", 8, 40]
    assert calls == [*timed, 40]
    second = scored(group, setting.case, {"a": setting.x})["counting"]
    assert calls == [*timed, 40]
    assert np.array_equal(first.scores["a"], second.scores["a"])
    assert first.ms_per_input == second.ms_per_input > 0
    scored(group, setting.case, {"a": setting.x, "b": setting.x + 1})
    assert calls == [*timed, 40, "fit", 40]


# Methods that share passes

OURS = {name: METHODS[name] for name in ("gradgeo", "gradgeo fast", "ten statistics")}


@pytest.fixture(scope="module")
def few():
    """A classifier that is measured in no time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.rand(400, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return Setting(Case("few", model, x, model(x).argmax(1), 250), Cases(Path()), 30)


def test_methods_that_share_passes_score_as_by_themselves(few, tmp_path, monkeypatch):
    together = scored(OURS, few.case, {"a": few.x, "b": few.noise("b", torch.rand)})
    monkeypatch.setattr(cache, "CACHE", tmp_path / "other")
    for name, found in together.items():
        assert np.allclose(found.scores["a"], alone(name, few, few.x), rtol=1e-4), name
    cost = {name: found.ms_per_input for name, found in together.items()}
    assert cost["gradgeo"] > max(cost["gradgeo fast"], cost["ten statistics"])  # each by itself


def test_only_what_is_not_finished_of_those_that_share_is_done(few, monkeypatch):
    fitted = []
    fit = Detector._learn
    monkeypatch.setattr(Detector, "_learn", lambda self, *found: (fitted.append(self.evidence), fit(self, *found)))
    alone("gradgeo fast", few, few.x)
    assert fitted == ["fast"]
    kept = set(cache.CACHE.iterdir())
    scored(OURS, few.case, {"a": few.x})
    assert fitted == ["fast", "full", "paper"]
    assert kept < set(cache.CACHE.iterdir())
    scored(OURS, few.case, {"a": few.x})
    assert len(fitted) == 3


def test_where_sharing_fails_each_is_tried_by_itself(few, monkeypatch):
    monkeypatch.setattr(Panel, "predict", lambda self, x: 1 / 0)
    result = evaluation.evaluate(few, columns={"constant": COLUMNS["constant"]}, methods=OURS)
    assert set(result["cells"]) == set(OURS)
    monkeypatch.setattr(Detector, "_verdicts", lambda self, measured: 1 / 0)
    result = evaluation.evaluate(few, columns={"noise": COLUMNS["uniform noise"]}, methods=OURS)
    assert {told["error"] for told in result["methods"].values()} == {"ZeroDivisionError: division by zero"}
    assert list(result["methods"]) == list(OURS)


def test_groups_keep_the_order_in_which_they_are_named():
    methods = {name: METHODS[name] for name in ("KNN", "ten statistics", "ViM", "gradgeo")}
    assert list(map(list, groups(methods))) == [["KNN"], ["ten statistics", "gradgeo"], ["ViM"]]


def test_peers_are_those_of_pytorch_ood_on_the_same_model(setting):
    from pytorch_ood.detector import EnergyBased

    scores = alone("EnergyBased", setting, setting.x)
    assert np.allclose(scores, EnergyBased(setting.case.model).predict(setting.x).double().numpy())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "gradgeo"])
def test_every_peer_runs(setting, name):
    scores = alone(name, setting, setting.x[:10])
    assert scores.shape == (10,)
    assert np.isfinite(scores).all()


def test_shaped_pads_small_images_and_shrinks_large_ones():
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(shaped(x, torch.Size((3, 32, 32)))[:, 2, 2:30, 2:30], x[:, 0])
    assert shaped(torch.rand(2, 3, 32, 32), torch.Size((1, 28, 28))).shape == (2, 1, 28, 28)


def test_maps_of_a_share():
    assert [count(share, 100) for share in (1.0, 0.2, 0.05)] == [100, 20, 5]
    assert count(0.05, 10) == 3
    assert count(0.5, 2) == 2


def test_statistics_of_the_most_likely_classes_are_those_of_fewer_maps(setting):
    from gradgeo import csm, csm_statistics

    seen = setting.cases.seen(setting.case, setting.x[:6], 3.0, share=0.5)
    matrices = csm(setting.case.model, setting.x[:6], temperature=3.0, classes=5)
    direct = csm_statistics(matrices, torch.zeros(6, dtype=torch.long)).double().numpy()
    assert np.allclose(seen.features, direct, atol=1e-5)


# The user's own


@pytest.fixture
def mine(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef load():\n    torch.manual_seed(1)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))\n\n"
        "class Mine:\n    def __init__(self, model):\n        self.model = model\n"
        "    def fit(self, loader):\n        return self\n    def predict(self, x):\n        return -self.model(x).amax(1)\n"
    )
    np.savez(tmp_path / "id.npz", x=generator.random((300, 3, 4, 4), np.float32))
    np.savez(tmp_path / "ood.npz", x=generator.random((50, 3, 4, 4), np.float32) ** 4)
    return tmp_path


def test_own_model_data_and_detector_without_labels(mine):
    setting = own_setting(f"{mine}/net.py:load", f"{mine}/id.npz", 50)
    columns = own_columns((f"{mine}/ood.npz",), ("pgd",))
    methods = chosen_methods(("gradgeo", "gradgeo fast", "KNN"), (f"{mine}/net.py:Mine",))
    result = evaluation.evaluate(setting, columns=columns, methods=methods)
    assert result["columns"]["ood.npz"]["count"] == 50
    assert {"PGD", "PGD, small"} <= set(result["columns"])
    assert "FGSM" not in result["columns"]
    assert result["columns"]["misclassified"]["count"] == 0
    assert set(result["cells"]) == {"gradgeo", "gradgeo fast", "KNN", f"{mine}/net.py:Mine"}


def test_data_of_the_same_name_keeps_its_whole_path(mine):
    specs = (f"{mine}/a/x.npz", f"{mine}/b/x.npz")
    assert set(own_columns(specs, ())) >= set(specs)


@pytest.mark.process
def test_killed_at_any_moment_it_goes_on_where_it_was(mine):
    """The same figures as an undisturbed run, and nothing that was finished is done again."""
    command = [
        *(sys.executable, "-c", "from gradgeo.cli import main; main()", "bench", "--model", "net.py:load"),
        *("--id", "id.npz", "--ood", "ood.npz", "--attacks", "pgd", "--methods", "gradgeo,MaxLogit", "--inputs", "60"),
    ]

    def run(out, seconds=None):
        process = subprocess.Popen(
            [*command, "--out", out], cwd=mine, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    began = time.monotonic()
    assert run("whole") == 0
    taken = time.monotonic() - began
    shutil.rmtree(mine / ".cache")

    def kept() -> list[Path]:
        return [file for file in (mine / ".cache" / "bench").glob("*.npz") if not file.name.startswith(".")]

    for share in (0.6, 0.75, 0.9):
        run("killed", share * taken)
        assert all(file.stat().st_size for file in kept())
    finished = {file: file.stat().st_mtime_ns for file in kept()}
    assert run("killed") == 0
    assert all(file.stat().st_mtime_ns == made for file, made in finished.items())
    cells = [json.loads((mine / out / "battery.json").read_text())[0]["cells"] for out in ("whole", "killed")]
    assert cells[0] == cells[1]


def test_unbounded_data_gets_unbounded_attacks_in_its_own_units(mine):
    np.savez(mine / "raw.npz", x=40 * np.random.default_rng(0).standard_normal((120, 48)).astype(np.float32))
    case = own_setting(f"{mine}/net.py:load", f"{mine}/raw.npz", 10).case
    assert case.bounds is None
    assert case.budgets[0] == pytest.approx(40 * 8 / 255, rel=0.1)


def test_a_task_that_fails_says_so_and_stops_no_other():
    said = []
    run = processes._Run(None, 20, (("MaxSoftmax",), ()), said.append)
    processes._work(run, lambda run: 1 / 0)
    processes._work(run, lambda run: run.say("next"))
    assert said == ["ZeroDivisionError: division by zero; to be tried again", "next"]


def test_bad_choices_are_refused_before_any_work(mine):
    with pytest.raises(ArgumentError, match="attacks"):
        own_columns((), ("nonsense",))
    with pytest.raises(ArgumentError, match=r"MaxSoftmax.*got nope"):
        chosen_methods(("nope",), ())
    with pytest.raises(DataError, match="pass --data"):
        shipped_settings(None, None, 10)
    with pytest.raises(ArgumentError, match="cases"):
        shipped_settings(mine, ("imagenet",), 10)


def test_ood_data_of_another_shape_says_so_in_its_column(mine):
    np.savez(mine / "wide.npz", x=np.zeros((5, 3, 4, 9), np.float32))
    setting = own_setting(f"{mine}/net.py:load", f"{mine}/id.npz", 20)
    columns = {"w": own_columns((f"{mine}/wide.npz",), ())["wide.npz"]}
    result = evaluation.evaluate(setting, columns=columns, methods={"MaxLogit": METHODS["MaxLogit"]})
    assert "(3, 4, 9)" in result["columns"]["w"]["error"]


def test_a_model_that_cannot_be_traced_is_attacked_as_it_is():
    class Untraceable(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(1), x.amax(1) if float(x.sum()) > 0 else x.amin(1)], 1)

    case = Case("u", Untraceable(), torch.rand(4, 3), torch.zeros(4, dtype=torch.long), 2)
    assert isinstance(case.folded, Untraceable)


@pytest.mark.process
def test_processes_say_what_they_are_at_and_leave_their_work_in_the_cache(tmp_path, monkeypatch):
    call = "prepare(None, ('digits',), 5, (('MaxSoftmax',), ()), 2, say)"
    code = "from benchmarks.processes import prepare\nfrom gradgeo.cli.console import say\n"
    code += f"if __name__ == '__main__': {call}"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "gradgeo: digits: scoring with MaxSoftmax" in run.stderr
    monkeypatch.setattr(cache, "CACHE", tmp_path / ".cache" / "bench")
    made = set(cache.CACHE.iterdir())
    (setting,) = shipped_settings(None, ("digits",), 5)
    result = evaluation.evaluate(setting, methods=chosen_methods(("MaxSoftmax",), ()))
    assert set(result["cells"]) == {"MaxSoftmax"}
    assert len(made) > 10
    assert set(cache.CACHE.iterdir()) == made
