"""A page of results: Markdown for people and JSON for programs, each with command, versions, hardware and date."""

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("gradgeo", "torch", "numpy", "scikit-learn", "pytorch-ood")


@dataclass
class Page:
    """Text blocks and the data they show."""

    title: str
    blocks: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self.blocks.append(text)

    def table(self, heading: list[str], rows: list[list[str]]) -> None:
        """Add a table."""
        lines = [heading, ["---"] * len(heading), *rows]
        self.blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))

    def write(self, out: Path, name: str, command: str) -> Path:
        """Write NAME.md and NAME.json into `out`."""
        made = made_by(command)
        versions = ", ".join(f"{p} {v}" for p, v in made["versions"].items())
        footer = f"`{made['command']}`, seed 0, {made['date']}; {versions}; {made['hardware']}."
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{name}.md"
        path.write_text("\n\n".join([f"# {self.title}", *self.blocks, footer]) + "\n")
        (out / f"{name}.json").write_text(json.dumps({"made": made, **self.data}, indent=1) + "\n")
        return path


def made_by(command: str) -> dict[str, Any]:
    """What a result must carry to be repeated."""
    return {
        "command": command,
        "seed": 0,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            p: version(p) for p in PACKAGES if find_spec(p.replace("-", "_").replace("scikit_learn", "sklearn"))
        },
        "revision": _revision(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}",
    }


def _revision() -> str | None:
    """The git commit of the source, with a + where it has changes since; None outside a repository."""
    try:
        here = Path(__file__).parent
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()
