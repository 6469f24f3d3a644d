"""What of the battery is for choosing and what is sealed, by protocol.toml, and the openings of the sealed part.

It holds an honest hand, not a wilful one: whoever calls `evaluate` themselves can measure whatever they like.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gradgeo.bench.provenance import provenance
from gradgeo.bench.scenarios import Scenario
from gradgeo.errors import ArgumentError, expected

PROTOCOL = Path(__file__).with_name("protocol.toml")
OPENINGS = Path(__file__).with_name("openings.jsonl")
"""One line for each opening of the sealed part; committed with the page that it led to."""
SHORTEST_REASON = 10
"""Characters."""


@dataclass(frozen=True)
class Protocol:
    """The parts for choosing and the sealed ones."""

    networks: tuple[str, ...]
    """Sealed ones, by name."""
    one_scenario_in: int
    salt: str
    never: tuple[str, ...]
    """Kinds whose scenarios are never sealed."""
    choosing_fits: int
    sealed_fits: int

    def network_is_sealed(self, name: str) -> bool:
        """Whether a network is; NAME@200 is where NAME is."""
        return name.partition("@")[0] in self.networks

    def scenario_is_sealed(self, name: str, scenario: Scenario) -> bool:
        """Whether a scenario is, on every network."""
        drawn = hashlib.sha256(f"{self.salt}: {name}".encode()).digest()
        return scenario.kind not in self.never and int.from_bytes(drawn[:8]) % self.one_scenario_in == 0

    def networks_allowed(self, names: Iterable[str] | None, default: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` (None: of `default`) where the sealed part stays closed.

        Raises:
            ArgumentError: a sealed network is named.
        """
        if names is None:
            return tuple(name for name in default if not self.network_is_sealed(name))
        chosen = tuple(names)
        if sealed := [name for name in chosen if self.network_is_sealed(name)]:
            raise ArgumentError(
                f"expected networks that are for choosing, got {', '.join(sealed)}, sealed by {PROTOCOL.name}. "
                "Pass --open-sealed REASON where the choosing is over."
            )
        return chosen

    def scenarios_allowed(self, scenarios: Mapping[str, Scenario]) -> dict[str, Scenario]:
        """Those for choosing."""
        return {name: each for name, each in scenarios.items() if not self.scenario_is_sealed(name, each)}

    def fits(self, count: int, *, opened: bool) -> tuple[int, ...]:
        """The seeds of `count` further fits."""
        first = self.sealed_fits if opened else self.choosing_fits
        return tuple(range(first, first + count))


def read(path: Path = PROTOCOL) -> Protocol:
    """The protocol in a file."""
    found = tomllib.loads(path.read_text())
    sealed, fits = found["sealed"], found["fits"]
    return Protocol(
        tuple(sealed["networks"]),
        sealed["one_scenario_in"],
        sealed["salt"],
        tuple(sealed["never"]),
        fits["choosing"],
        fits["sealed"],
    )


def closed(scenarios: Mapping[str, Scenario]) -> str:
    """What a page says that left the sealed part out."""
    protocol = read()
    hidden = [name for name, scenario in scenarios.items() if protocol.scenario_is_sealed(name, scenario)]
    return (
        f"For choosing: the sealed networks ({', '.join(protocol.networks)}) and scenarios ({'; '.join(hidden)}) were "
        "left out."
    )


def opening(reason: str, command: str) -> str:
    """Write an opening of the sealed part down; returns what its page says."""
    reason = " ".join(reason.split())
    if len(reason) < SHORTEST_REASON:
        raise expected("--open-sealed", f"a reason of {SHORTEST_REASON} characters or more", reason)
    before = OPENINGS.read_text().splitlines() if OPENINGS.exists() else []
    made = {key: value for key, value in provenance(command).items() if key in ("date", "revision", "command")}
    count = len(before) + 1
    with OPENINGS.open("a") as log:
        log.write(json.dumps({"count": count, "reason": reason, **made}) + "\n")
    return f"The sealed networks and scenarios were opened, opening {count}, on {made['date']}: {reason}"
