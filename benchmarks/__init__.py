"""The project's laboratory: long measurements, each of which writes a page and its data under results/.

`python -m benchmarks` lists them. A measurement is a module here with `run(suite) -> Page`.
"""

BENCHMARKS = (
    "accuracy",
    "adaptive",
    "architectures",
    "attacks",
    "browser",
    "certificate",
    "copies",
    "coverage",
    "detection",
    "drift",
    "emphasis",
    "engine",
    "evasion",
    "evidence",
    "export",
    "file-serving",
    "guarantee",
    "local-minima",
    "networks",
    "one-class",
    "own-rate",
    "paper",
    "paper-small",
    "per-class",
    "presets-cost",
    "price",
    "reading",
    "record",
    "report",
    "scoring",
    "serving",
    "site-check",
    "soak",
    "watch",
)
"""The names of the measurements; `local-minima` is in `local_minima.py`. The battery of all detectors is apart: it has
options of its own."""
