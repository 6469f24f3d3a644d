"""From the wheel to a first verdict on somebody's own images, table and texts, each timed, in a new environment.

    python deploy/try_first_verdict.py [KIND ...] [--site FOLDERS]

The wheel is built and installed where nothing else is. A user then has a trained network and a file `net.py` that loads
it, and types two commands, `gradgeo fit` and `gradgeo score`: with `pip install` three. Ends with an error where a
command fails, a verdict is missing, or the file has more than ten lines. `--site` lends the packages of another
environment, so that PyTorch is not fetched again. The data are made
and the networks trained on them before the clock starts.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from try_dockerfile import lend

ROOT = Path(__file__).parent.parent
NETS = {
    "images": """\
from safetensors.torch import load_file
from torch import nn

def load():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    net.load_state_dict(load_file("net.safetensors"))
    return net
""",
    "table": """\
from safetensors.torch import load_file
from torch import nn

def load():
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    net.load_state_dict(load_file("net.safetensors"))
    return net
""",
    "texts": """\
import gradgeo
from safetensors.torch import load_file
from torch import nn

def load():
    net = nn.Sequential(nn.EmbeddingBag(128, 8), nn.Linear(8, 3))
    net.load_state_dict(load_file("net.safetensors"))
    return gradgeo.text(net, lambda text: [ord(letter) % 128 for letter in text], max_length=32)
""",
}
COMMANDS = {
    "images": ("--data held_out --size 24 --out d.gradgeo", "--data new --out verdicts.csv"),
    "table": ("--data held_out.csv --label kind --out d.gradgeo", "--data new.csv --out verdicts.csv"),
    "texts": (
        "--data held_out.csv --columns text --label kind --out d.gradgeo",
        "--data new.csv --out verdicts.csv",
    ),
}
MADE = """\
import csv, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
kind, rng = sys.argv[1], np.random.default_rng(0)
torch.manual_seed(0)
namespace = {"trained": lambda net, *_, **__: net}
source = Path("net.py").read_text().replace("    net.load_state_dict(load_file(\\"net.safetensors\\"))\\n", "")
exec(source.replace("gradgeo.text(", "trained("), namespace)
net = namespace["load"]()
y = np.arange(390) % 3
if kind == "images":
    x = rng.random((390, 24, 24, 3)) * 0.5
    x[np.arange(390), :, :, y] += 0.3
    x = (x * 255).astype(np.uint8)
    from PIL import Image
    for i, image in enumerate(x):
        folder = Path("new") if i >= 360 else Path("held_out", "abc"[y[i]])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    inputs = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
else:
    if kind == "table":
        head, x = ["a", "b", "c", "d"], rng.normal(size=(390, 4)) + 3 * np.eye(4)[y]
        rows, inputs = x.round(4).tolist(), torch.from_numpy(x).float()
    else:
        words = ("parcel has arrived", "invoice to be paid", "meeting on monday")
        head, rows = ["text"], [[f"{words[k]} number {rng.integers(10**6)}"] for k in y]
        inputs = torch.tensor([[ord(c) for c in text.ljust(32)[:32]] for [text] in rows])
    for name, part in (("held_out", slice(0, 360)), ("new", slice(360, 390))):
        with open(f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([[*head, "kind"], *([*row, "abc"[k]] for row, k in zip(rows[part], y[part]))])
optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
for _ in range(150):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(inputs[:360]), torch.from_numpy(y[:360])).backward()
    optimizer.step()
save_file(net.state_dict(), "net.safetensors")
"""


def main() -> None:
    """Build, install, and try each kind of data."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--site", help="site-packages of other environments, to lend, as in PATH")
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=list(NETS), help=f"of {', '.join(NETS)}")
    chosen = parser.parse_args()
    site = chosen.site
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
        subprocess.run(command, check=True, env=environment)
        [wheel] = folder.glob("gradgeo-*.whl")
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        if site:
            [packages] = (folder / "venv").glob("lib/python*/site-packages")
            lend(site.split(os.pathsep), folder / "lent")
            (packages / "lent.pth").write_text(str(folder / "lent"))
        began = time.perf_counter()
        install = [python, "-m", "pip", "install", "--quiet", f"{wheel}[images,tables]"]
        subprocess.run(install, check=True, env=environment)
        print(f"pip install: {time.perf_counter() - began:.0f} s{', with packages lent' if site else ''}", flush=True)
        for kind in chosen.kinds:
            print(first_verdict(kind, folder / kind, python, environment), flush=True)


def first_verdict(kind: str, folder: Path, python: Path, environment: dict[str, str]) -> str:
    """What it took, or an error."""
    folder.mkdir()
    net = folder / "net.py"
    net.write_text(NETS[kind])
    lines = len(NETS[kind].splitlines())
    assert lines <= 10, kind
    subprocess.run([python, "-c", MADE, kind], cwd=folder, env=environment, check=True)
    fit, score = (options.split() for options in COMMANDS[kind])
    gradgeo, seconds = python.with_name("gradgeo"), []
    for command in ([gradgeo, "fit", *fit], [gradgeo, "score", "d.gradgeo", *score]):
        began = time.perf_counter()
        done = subprocess.run([*command, "--model", "net.py:load"], cwd=folder, env=environment, capture_output=True)
        seconds.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stderr.decode()
    with (folder / "verdicts.csv").open(newline="") as file:
        verdicts = [row["trusted"].lower() for row in csv.DictReader(file)]
    assert len(verdicts) == 30, f"{kind}: {len(verdicts)} verdicts of 30"
    trusted = verdicts.count("true")
    assert trusted > 20, f"{kind}: {trusted} of 30 ordinary inputs trusted"
    took = " + ".join(f"{each:.0f}" for each in seconds)
    return (
        f"{kind}: {lines} lines, 3 commands with pip's, fit + score {took} s, {trusted} of 30 ordinary inputs trusted"
    )


if __name__ == "__main__":
    main()
