"""A page of results: Markdown for people and JSON for programs, each with its provenance."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradgeo.bench.provenance import provenance


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
        origin = provenance(command)
        versions = ", ".join(f"{package} {version}" for package, version in origin["versions"].items())
        machine = f"{origin['hardware']}; {origin['processor']}"
        footer = f"`{origin['command']}`, seed {origin['seed']}, {origin['date']}; {versions}; {machine}."
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{name}.md"
        path.write_text("\n\n".join([f"# {self.title}", *self.blocks, footer]) + "\n")
        (out / f"{name}.json").write_text(json.dumps({"made": origin, **self.data}, indent=1) + "\n")
        return path


class PartialPage(Page):
    """A page that is measured in parts: what it holds of other runs, and this run lacks, stays there."""

    def cells(self) -> Iterable[dict[str, Any]]:
        """What this run measured, each of which is told the command, date and processor ("made")."""
        raise NotImplementedError

    def keep(self, held: dict[str, Any]) -> None:
        """Add to `data` what the page there `held` beyond it."""
        raise NotImplementedError

    def show(self) -> None:
        """Add what `data` holds to the page."""
        raise NotImplementedError

    def write(self, out: Path, name: str, command: str) -> Path:
        """Write NAME.md and NAME.json into `out`, with what the page there holds of other runs."""
        made = {key: value for key, value in provenance(command).items() if key in {"command", "date", "processor"}}
        for cell in self.cells():
            cell["made"] = made
        file = out / f"{name}.json"
        if file.exists():
            self.keep(json.loads(file.read_text()))
        self.show()
        return super().write(out, name, command)
