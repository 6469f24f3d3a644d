"""A page of results: Markdown for people and JSON for programs, each with command, versions, hardware and date."""

import json
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


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

    def write(self, out: Path, name: str) -> Path:
        """Write NAME.md and NAME.json into `out`."""
        made = {
            "command": f"gradgeo bench {name}",
            "seed": 0,
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {p: version(p) for p in ("gradgeo", "torch", "numpy", "scikit-learn")},
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores, "
            f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}",
        }
        versions = ", ".join(f"{p} {v}" for p, v in made["versions"].items())  # type: ignore[attr-defined]
        footer = f"`{made['command']}`, seed 0, {made['date']}; {versions}; {made['hardware']}."
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{name}.md"
        path.write_text("\n\n".join([f"# {self.title}", *self.blocks, footer]) + "\n")
        (out / f"{name}.json").write_text(json.dumps({"made": made, **self.data}, indent=1) + "\n")
        return path
