"""A user's own classifier, data and detector: as the command line names them."""

import json
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from gradgeo import cli
from gradgeo.bench import cache
from gradgeo.bench.evaluate import evaluate
from gradgeo.bench.methods import METHODS
from gradgeo.bench.scenarios import Scenario, Task
from gradgeo.bench.user_model import select_methods, user_scenarios, user_task
from gradgeo.data.models import load_model
from gradgeo.errors import ArgumentError
from helpers import ROOT
from helpers.waiting import until

pytestmark = pytest.mark.skipif(find_spec("pytorch_ood") is None, reason="pytorch-ood is not installed")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
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


@pytest.mark.simulation
def test_a_model_data_and_a_detector_without_labels(mine: Path) -> None:
    task = user_task("net", load_model(f"{mine}/net.py:load"), f"{mine}/id.npz", 50)
    scenarios = user_scenarios((f"{mine}/ood.npz",), ("pgd",))
    methods = select_methods(("gradgeo", "gradgeo fast", "KNN"), (f"{mine}/net.py:Mine",))
    result = evaluate(task, scenarios=scenarios, methods=methods)
    assert result["columns"]["ood.npz"]["count"] == 50
    assert {"PGD", "PGD, small"} <= set(result["columns"])
    assert "FGSM" not in result["columns"]
    assert result["columns"]["misclassified"]["count"] == 0
    assert set(result["cells"]) == {"gradgeo", "gradgeo fast", "KNN", f"{mine}/net.py:Mine"}


def test_a_detector_of_another_library_as_the_page_has_it(tmp_path: Path) -> None:
    viyog = pytest.importorskip("viyog", reason="viyog is not installed")
    (code,) = re.findall(r"```python\n(from viyog .*?)```", (ROOT / "docs/measure.md").read_text(), re.S)
    (tmp_path / "rough.py").write_text(code)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)), torch.rand(60, 1, 8, 8)
    model(x)
    loader = DataLoader(TensorDataset(x, torch.zeros(60)), batch_size=16)
    (method,) = select_methods((), (f"{tmp_path / 'rough.py'}:Roughness",)).values()
    scores = method.make(model, x).fit(loader).predict(x[:5])
    torch.testing.assert_close(scores, viyog.Viyog(model).fit(loader).score(x[:5]))


def test_data_of_the_same_name_keeps_its_whole_path(mine: Path) -> None:
    specs = (f"{mine}/a/x.npz", f"{mine}/b/x.npz")
    assert set(user_scenarios(specs, ())) >= set(specs)
    assert "PGD" in user_scenarios(("elsewhere/PGD",), None)
    assert "elsewhere/PGD" in user_scenarios(("elsewhere/PGD",), None)


@pytest.mark.process
def test_killed_it_resumes_where_it_was(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same figures as an undisturbed run, and nothing that was finished is done again."""
    options = [
        *("bench", "--model", "net.py:load", "--id", "id.npz", "--ood", "ood.npz", "--attacks", "pgd"),
        *("--methods", "gradgeo,MaxLogit", "--inputs", "30"),
    ]
    monkeypatch.chdir(mine)

    def finished() -> list[Path]:
        return [file for file in (mine / ".cache" / "bench").glob("*.npz") if not file.name.startswith(".")]

    def run(out: str) -> dict[str, dict[str, object]]:
        """The figures, by a run in this process."""
        done = CliRunner().invoke(cli.app, [*options, "--out", out])
        assert done.exit_code == 0, done.output
        return json.loads((mine / out / "battery.json").read_text())[0]["cells"]

    command = [sys.executable, "-c", "from gradgeo.cli import main; main()", *options, "--out", "killed"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until(lambda: len(finished()) >= 4 or process.poll() is not None, 120)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert all(file.stat().st_size for file in finished())
    before = {file: file.stat().st_mtime_ns for file in finished()}
    monkeypatch.setattr(cache, "CACHE", Path(".cache/bench"))  # that of the process
    killed = run("killed")
    assert len(finished()) > len(before)
    assert all(file.stat().st_mtime_ns == written for file, written in before.items())
    monkeypatch.setattr(cache, "CACHE", Path(".cache/whole"))
    assert run("whole") == killed


def test_unbounded_data_gets_unbounded_attacks_in_its_own_units(mine: Path) -> None:
    np.savez(mine / "raw.npz", x=40 * np.random.default_rng(0).standard_normal((120, 48)).astype(np.float32))
    classifier = user_task("net", load_model(f"{mine}/net.py:load"), f"{mine}/raw.npz", 10).classifier
    assert classifier.bounds is None
    assert classifier.budgets[0] == pytest.approx(40 * 8 / 255, rel=0.1)


def test_bad_choices_are_refused_before_any_work() -> None:
    with pytest.raises(ArgumentError, match="attacks"):
        user_scenarios((), ("nonsense",))
    with pytest.raises(ArgumentError, match=r"MaxSoftmax.*got nope"):
        select_methods(("nope",), ())


def test_data_are_prepared_by_code_as_fit_has_it(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine)
    monkeypatch.setattr(cache, "CACHE", Path("cache"))
    (mine / "prepare.py").write_text("def dark(x):\n    return 0.5 * x\n")
    seen: list[tuple[Task, dict[str, Scenario]]] = []

    def evaluated(task: Task, *, scenarios: dict[str, Scenario], **options: object) -> None:
        seen.append((task, scenarios))
        raise KeyboardInterrupt

    monkeypatch.setattr("gradgeo.bench.evaluate.evaluate", evaluated)
    bench = ["bench", "--model", "net.py:load", "--id", "id.npz", "--ood", "ood.npz", "--methods", "MaxLogit"]
    for transform in ([], ["--transform", "prepare.py:dark"]):
        CliRunner().invoke(cli.app, [*bench, "--inputs", "20", *transform])
    (plain, of_plain), (dark, of_dark) = seen
    assert torch.equal(0.5 * plain.classifier.x, dark.classifier.x)
    assert torch.equal(0.5 * of_plain["ood.npz"].generate(plain), of_dark["ood.npz"].generate(dark))
    refused = CliRunner().invoke(cli.app, [*bench, "--transform", "prepare.py:dark", "--size", "3"])
    assert "leave out --size, which cannot stand beside --transform" in refused.stderr


def test_ood_data_of_another_shape_says_so_in_its_scenario(mine: Path) -> None:
    np.savez(mine / "wide.npz", x=np.zeros((5, 3, 4, 9), np.float32))
    task = user_task("net", load_model(f"{mine}/net.py:load"), f"{mine}/id.npz", 20)
    scenarios = {"w": user_scenarios((f"{mine}/wide.npz",), ())["wide.npz"]}
    result = evaluate(task, scenarios=scenarios, methods={"MaxLogit": METHODS["MaxLogit"]})
    assert "(3, 4, 9)" in result["columns"]["w"]["error"]
