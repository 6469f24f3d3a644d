"""What `deploy/` says of us is so: options, metrics, routes and dependencies that it names exist."""

import json
import re
import tomllib
from typing import Any

import pytest

from gradgeo import cli
from gradgeo.serve.app import create_app
from gradgeo.serve.metrics import Metrics
from gradgeo.watch import Watch
from helpers import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

DEPLOY = ROOT / "deploy"


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def options(command: list[str]) -> set[str]:
    return {part.partition("=")[0] for part in command if part.startswith("--")}


def test_options_of_the_server_exist() -> None:
    from typer.main import get_command

    params = get_command(cli.app).commands["serve"].params  # type: ignore[attr-defined]
    known = {name for each in params for name in (*each.opts, *each.secondary_opts)}
    image = dict(re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    used = options(json.loads(image["ENTRYPOINT"]))
    used |= options(loaded("compose.yaml")["services"]["gradgeo"]["command"])
    used |= options(loaded("kserve.yaml")["spec"]["predictor"]["containers"][0]["args"])
    assert used <= known


def test_metrics_and_routes_exist() -> None:
    text = Metrics({"fit": Watch(19)}).text().decode()
    known = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)) | set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))
    named = (DEPLOY / "grafana" / "gradgeo.json").read_text() + (DEPLOY / "prometheus" / "alerts.yml").read_text()
    used = set(re.findall(r"\bgradgeo_[a-z0-9_]+", named))
    assert len(used) > 8
    assert used <= known | {f"{name}_total" for name in known} | {f"{name}_bucket" for name in known}
    paths = {route.path for route in create_app(lambda: None).routes}  # type: ignore[arg-type]
    container = loaded("kserve.yaml")["spec"]["predictor"]["containers"][0]
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")} <= paths
    assert all(panel["targets"] for panel in json.loads((DEPLOY / "grafana" / "gradgeo.json").read_text())["panels"])


def test_the_recipe_asks_for_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = loaded("conda/recipe.yaml")
    wanted = {re.sub(r"^torch\b", "pytorch", each).replace(" ", "") for each in project["dependencies"]}
    assert wanted == {each.replace(" ", "") for each in recipe["requirements"]["run"] if not each.startswith("python ")}
    served = {each.replace(" ", "").replace("_", "-") for each in recipe["requirements"]["run_constraints"]}
    extras = project["optional-dependencies"]
    assert served == {each for each in (*extras["serve"], *extras["images"]) if not each.startswith("gradgeo")}


def test_the_steps_of_the_image_are_those_that_are_tried() -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("try_dockerfile", DEPLOY / "try_dockerfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    steps = module.steps((DEPLOY / "Dockerfile").read_text())
    known = {"FROM", "ARG", "COPY", "RUN", "WORKDIR", "ENV", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in steps} - known == {"USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"}  # only stated
    assert sum(name == "FROM" for name, _ in steps) == 2
