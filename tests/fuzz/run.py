"""Coverage-guided fuzzing of what reads other people's bytes: `python tests/fuzz/run.py TARGET [libFuzzer options]`.

A crash is written to the current folder as crash-HASH; mended, it is kept as tests/fuzz/kept/TARGET-NAME. `--lines
TARGET FOLDER` tells instead which lines of the reader a corpus reaches.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))  # the helpers of the tests

with atheris.instrument_imports(
    include=["gradgeo", "tarfile", "zipfile", "numpy.lib.format", "numpy.lib._format_impl", "PIL"]
):
    import tarfile  # noqa: F401
    import zipfile  # noqa: F401

    import targets
    from PIL import Image

    Image.init()  # loads every format while imports are instrumented

import torch

torch.set_num_threads(1)


def main() -> None:
    name, *options = sys.argv[1:]
    corpus = next((Path(option) for option in options if not option.startswith("-")), None)
    if corpus is None:
        corpus = targets.FOLDER / name
        options.insert(0, str(corpus))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options], lambda data: targets.run(name, data) and None)
    atheris.Fuzz()


main()
