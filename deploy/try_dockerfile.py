"""Run the steps of the Dockerfile without a container engine: each stage a new environment in a folder of its own.

    python deploy/try_dockerfile.py [--site FOLDERS]

COPY, RUN and ENV are carried out, with absolute paths below the stage's folder; then ENTRYPOINT and CMD start, with a
detector of the digits under /models, and must become healthy, judge an input and end on SIGTERM. `--site` lends the
packages of another environment, so that PyTorch is not fetched again. Not tried: base images, users (`useradd` is left
out), what an engine isolates, and HEALTHCHECK as the engine calls it (its command is run once).
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

HERE = Path(__file__).parent
LEFT_OUT = ("useradd",)
PORT = 18123
JSON = {"Content-Type": "application/json"}


class Stage:
    """A stage of the file: an environment and a root folder."""

    def __init__(self, folder: Path, site: str | None) -> None:
        self.root, self.work = folder / "root", folder / "root"
        self.root.mkdir(parents=True)
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / "bin"
        if site:
            [packages] = (folder / "venv").glob("lib/python*/site-packages")
            lend(site.split(os.pathsep), folder / "lent")
            (packages / "lent.pth").write_text(str(folder / "lent"))
        self.env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(folder), "LANG": "C.UTF-8"}
        self.env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}

    def path(self, name: str) -> Path:
        """A path of the file, below the stage's folder."""
        return self.root / name.lstrip("/") if name.startswith("/") else self.work / name

    def below(self, command: str) -> str:
        """A command whose absolute paths are those of the stage."""
        return re.sub(r"(?<![\w.$:/}-])/(src|wheels|models)\b", rf"{self.root}/\1", command)


def lend(sites: list[str], folder: Path) -> None:
    """Links to the packages of other environments, but not to ourselves or to what installs."""
    folder.mkdir()
    for package in (each for site in sites for each in Path(site).iterdir()):
        ours = package.name.lower().startswith(("gradgeo", "_gradgeo", "pip", "setuptools", "__"))
        if not ours and not (folder / package.name).exists():
            (folder / package.name).symlink_to(package)


def steps(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def main() -> None:
    """Run all steps; ends with an error where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--site", help="site-packages of other environments, to lend, as in PATH")
    site = parser.parse_args().site
    with tempfile.TemporaryDirectory() as folder:
        stages: dict[str, Stage] = {}
        stage, known = None, {}
        for instruction, argument in steps((HERE / "Dockerfile").read_text()):
            print(f"{instruction} {argument}"[:150], flush=True)
            if instruction == "FROM":
                name = argument.split(" AS ")[-1] if " AS " in argument else "final"
                stage = stages[name] = Stage(Path(folder) / name, site)
            elif instruction == "ARG":
                name, _, value = argument.partition("=")
                known[name] = value
                if stage is not None:
                    stage.env[name] = value
            elif stage is not None:
                known |= carry_out(stage, stages, instruction, argument)
        assert stage is not None
        serve(stage, json.loads(known["ENTRYPOINT"]) + json.loads(known["CMD"]), known["HEALTHCHECK"])
    print("every step was run but users and the engine itself; the server answered and ended in good order")


def carry_out(stage: Stage, stages: dict[str, Stage], instruction: str, argument: str) -> dict[str, str]:
    """One instruction; those that only state something are returned."""
    if instruction == "COPY":
        parts = argument.split()
        origin = stages[parts.pop(0).removeprefix("--from=")] if parts[0].startswith("--from=") else None
        *sources, target = parts
        for source in sources:
            found = origin.path(source) if origin else HERE.parent / source
            place = stage.path(target)
            if found.is_dir():
                shutil.copytree(found, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(found, place / found.name if target.endswith("/") else place)
    elif instruction == "RUN" and not argument.startswith(LEFT_OUT):
        subprocess.run(["sh", "-ec", stage.below(argument)], cwd=stage.work, env=stage.env, check=True)
    elif instruction == "WORKDIR":
        stage.work = stage.path(argument)
        stage.work.mkdir(parents=True, exist_ok=True)
    elif instruction == "ENV":
        stage.env |= dict(pair.split("=", 1) for pair in shlex.split(argument))
    return {instruction: argument}


def serve(stage: Stage, command: list[str], health: str) -> None:
    """Start the server with a detector of the digits, ask it, and end it."""
    made = "from gradgeo import Detector; from gradgeo.data import digits; from gradgeo.data.models import load_model;"
    made += "d = Detector(load_model('digits'), evidence='lite').fit(digits.split()['fit'][0]);"
    made += "d.save('detector.gradgeo', notes={'model': 'digits', 'preprocess': {'size': [8, 8]}})"
    subprocess.run([stage.bin / "python", "-c", made], cwd=stage.work, env=stage.env, check=True)
    command = [part.replace("8000", str(PORT)) for part in command]
    process = subprocess.Popen([stage.bin / command[0], *command[1:]], cwd=stage.work, env=stage.env)
    try:
        ready = f"http://127.0.0.1:{PORT}/v2/health/ready"
        for _ in range(600):
            try:
                urllib.request.urlopen(ready)
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("the server ended before it was ready") from None
                time.sleep(0.5)
        check = health.partition("CMD ")[2].replace("8000", str(PORT))
        subprocess.run(["sh", "-c", check], env=stage.env, check=True)
        tensor = {"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64}
        body = json.dumps({"inputs": [tensor]}).encode()
        url = f"http://127.0.0.1:{PORT}/v2/models/detector/infer"
        with urllib.request.urlopen(urllib.request.Request(url, body, JSON)) as answer:
            print(answer.read().decode()[:300])
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise SystemExit(f"the server ended with {process.returncode}")
    finally:
        process.kill()


if __name__ == "__main__":
    sys.exit(main())
