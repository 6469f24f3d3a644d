"""The options that commands share, and what their texts mean."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradgeo.errors import DataError, expected, listed, one_line

if TYPE_CHECKING:
    from torch import nn

    from gradgeo import Detector
    from gradgeo.data import Item, Source
    from gradgeo.detector.file.serialization import Contents

SOUGHT = 10_000
"""Names among which one that was meant is looked for."""

MODELS = (
    "file.py:function, package.module:function, a .pt or .pt2 file, hf:ORG/NAME, monai:FOLDER, torchvision:NAME, "
    "timm:NAME, digits."
)
SAME_MODEL = "As for fit; may be left out where that was digits, torchvision: or timm:."
DATA = (
    "A folder of images or DICOM, an image, a .csv or .tsv file, .parquet or .tar files (file, folder, pattern), .npz, "
    ".npy, hf:NAME, ucr:NAME, digits or code, file.py:function; of texts .csv, .txt, .jsonl or code."
)
ModelSpec = Annotated[str, typer.Option("--model", "-m", help=MODELS)]
SameModel = Annotated[str | None, typer.Option("--model", "-m", help=SAME_MODEL)]
DataSpec = Annotated[str, typer.Option("--data", "-d", help=DATA)]
DetectorPath = Annotated[Path, typer.Argument(metavar="DETECTOR", help="The file that fit wrote.")]
Sha256 = Annotated[str | None, typer.Option(help="What the detector file's SHA-256 must be, as info prints it.")]
Weights = Annotated[str | None, typer.Option(help="The model's weights, a .safetensors file.")]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")]
Start = Annotated[int, typer.Option(help="Items to leave out at the beginning.")]
Limit = Annotated[int | None, typer.Option(help="Items to take at most.")]
Columns = Annotated[
    str | None, typer.Option(help="Of .csv, .tsv and .parquet: the model's inputs, in its order: a,b,c.")
]
Label = Annotated[str | None, typer.Option(help="Of .csv, .tsv and .parquet: the column of the labels.")]
Keys = Annotated[
    str | None, typer.Option(help="Of code and .jsonl: the keys of input and label in an item, as pixel_values,labels.")
]
Transform = Annotated[
    str | None,
    typer.Option(
        help="In place of --size to --interpolation: file.py:function, timm, torchvision:WEIGHTS, hf:ORG/NAME or "
        "monai:FOLDER."
    ),
]
DataRoot = Annotated[str | None, typer.Option(help="Folder of the UCR archive; default $UCR_DATA_HOME.")]
Size = Annotated[str | None, typer.Option(help="Resize images to this: 224 or HEIGHTxWIDTH.")]
Channels = Annotated[int | None, typer.Option(help="Make images 1 (grey) or 3 (RGB) channels.")]
Mean = Annotated[str | None, typer.Option(help="Subtract this: one number, or per channel as 0.5,0.4,0.4.")]
Std = Annotated[str | None, typer.Option(help="Divide by this, written like --mean.")]
Resize = Annotated[int | None, typer.Option(help="Resize images to this shorter side, in place of --size.")]
Crop = Annotated[str | None, typer.Option(help="Cut the centre out after --resize: 224 or HEIGHTxWIDTH.")]
Order = Annotated[str | None, typer.Option(help="Order of the channels: rgb, or bgr as OpenCV has it.")]
Interpolation = Annotated[str | None, typer.Option(help="Of resizing: bilinear or bicubic.")]
Bits = Annotated[
    int | None, typer.Option(help="Of the camera, as 12, where 16-bit files hold its numbers as they are.")
]
Window = Annotated[str | None, typer.Option(help="CENTRE,WIDTH of the values that become 0..1: 40,400 in CT.")]
Streaming = Annotated[bool, typer.Option("--stream", help="Read hf: data as it comes, keeping nothing on disk.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Inputs in one pass of the model.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that read ahead.")]
Confidence = Annotated[
    str | None, typer.Option(help="With what probability this detector's own rate is at most alpha, as 95%.")
]
Together = Annotated[
    str | None, typer.Option(help="Columns of the data, with commas: inputs of one patient or video stay on one side.")
]
Groups = Annotated[
    str | None,
    typer.Option(help="Columns of the data, with commas, in whose groups the rate is to hold: site,scanner."),
]
Index = Annotated[list[str] | None, typer.Option("--index", "-i", help="An item: its number or name; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_detector(contents: "Contents", model: str | None, weights: str | None, device: str) -> "Detector":
    """The detector with the model that the user named, or else the one in its notes if that runs no code of theirs."""
    from gradgeo.data.models import load_model
    from gradgeo.detector import Detector

    return Detector.load(contents, on_device(device, load_model(*model_named(contents.notes, model, weights))))


def model_named(notes: dict[str, Any], model: str | None, weights: str | None) -> tuple[str, str | None]:
    """The model and weights that the user named, or else those of a detector's notes if they run no code of theirs."""
    if model is not None:
        return model, weights
    from gradgeo.data.models import is_named

    fitted, fitted_weights = notes.get("model"), notes.get("weights")
    if not isinstance(fitted, str) or not is_named(fitted):
        raise DataError(f"pass --model; the detector was fitted with {one_line(str(fitted))}")
    if fitted_weights is not None and weights is None:
        raise DataError(f"pass --weights; the detector was fitted with {one_line(str(fitted_weights))}")
    return fitted, weights


def columns_of(contents: "Contents", data: str) -> list[str] | None:
    """The names by which the detector's inputs are taken from `data`; None where either has no names."""
    from gradgeo.data.csv_file import ENDINGS

    columns = contents.fitted.get("columns")
    endings: tuple[str, ...] = (*ENDINGS, ".parquet")
    if not columns:  # of pictures or texts, in a file of the kind that fit read
        columns = contents.notes.get("columns")
        endings = ENDINGS if str(contents.notes.get("data")).lower().endswith(ENDINGS) else (".parquet",)
    known = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    return columns if known and data.lower().endswith(endings) else None


def keys_of(contents: "Contents", data: str, keys: str | None) -> tuple[str, ...]:
    """The keys of input and label that the user names now, or else named at fit, in data whose items have some."""
    if keys is not None:
        return names(keys)
    known = contents.notes.get("keys")
    has_keys = data.lower().endswith(".jsonl") or ".py:" in data
    return tuple(map(str, known)) if has_keys and isinstance(known, list) else ()


def on_device(device: str, model: "nn.Module") -> "nn.Module":
    """`model` moved to the device of that name."""
    import torch

    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # torch has both for a device that is not there
        raise expected("device", "one that this machine has", device, str(error).splitlines()[0]) from error


def sides(option: str, text: str) -> tuple[int, ...]:
    """A height and a width; of a single number both."""
    found: tuple[int, ...] = numbers(option, text, "x", int)
    return found * 2 if len(found) == 1 else found


def item_at(source: "Source", which: str) -> "Item":
    """The item at that position or of that name, whole or its last part; refuses one that the data does not have."""
    if not which.isascii() or not which.isdigit():
        return source[position_of(source.names(), which)]
    try:
        return source[int(which)]
    except IndexError:
        rule = "one that the data has" if source.size is None else f"within 0..{source.size - 1}"
        raise expected("index", rule, int(which)) from None


def position_of(all_names: Iterable[str], name: str) -> int:
    """Where an item of this name stands; refuses a name that none has, or only the last part of several."""
    from difflib import get_close_matches  # its import takes a while

    ends, close = list[tuple[int, str]](), list[str]()
    for position, each in enumerate(all_names):
        if each == name:
            return position
        if each.endswith(f"/{name}"):
            ends.append((position, each))
        if len(close) < SOUGHT:
            close.append(each)
    if len(ends) == 1:
        return ends[0][0]
    if ends:
        raise expected("index", "the name of one item", name, f"Say which: {listed([each for _, each in ends])}.")
    near = get_close_matches(name, [*close, *(each.rpartition("/")[2] for each in close)], n=3)
    raise expected("index", "a position or a name in the data", name, f"Did you mean {listed(near)}?" if near else "")


def names(text: str | None) -> tuple[str, ...]:
    """The names in the text of an option; none where it is not given."""
    return () if text is None else tuple(name.strip() for name in text.split(","))


def fraction(option: str, text: str | None) -> float | None:
    """The share that an option states, as 95% or 0.95."""
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(f"{option} is a share, as 5% or 0.05, got {text}") from None
    return share / 100 if text.endswith("%") else share


def number_or(word: str, option: str, text: str) -> float | str:
    """The word itself, or the number in the text of an option."""
    return word if text == word else float(numbers(option, text, " ", float)[0])


def numbers(option: str, text: str, separator: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """The numbers in the text of an option."""
    try:
        return tuple(kind(part) for part in text.split(separator))
    except ValueError:
        raise typer.BadParameter(f"{option} has something that is not a number: {text}") from None
