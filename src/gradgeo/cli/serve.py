"""Serving a detector over HTTP."""

import os
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradgeo.cli.options import DetectorPath, Device, SameModel, Sha256, Transform, Weights, model_named, on_device
from gradgeo.errors import DataError, expected

if TYPE_CHECKING:
    from torch import nn

TOKEN = "GRADGEO_TOKEN"


def serve(
    file: DetectorPath,
    model: SameModel = None,
    weights: Weights = None,
    sha256: Sha256 = None,
    device: Device = "cpu",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Of the model, in paths; default that of the file.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch in each; more for large models on idle cores.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Inputs in a batch at most.")] = 64,
    delay: Annotated[float, typer.Option(min=0, help="Milliseconds to wait for others to share a batch.")] = 5.0,
    rows: Annotated[int, typer.Option(min=1, help="Inputs in one request at most.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Inputs that may wait.")] = 1024,
    body: Annotated[int | None, typer.Option(min=1, help="Bytes of a body at most; default by --rows.")] = None,
    json_body: Annotated[int, typer.Option(min=1, help="Bytes of JSON in it; binary tensors go beyond.")] = 1 << 20,
    image_bytes: Annotated[int, typer.Option(min=1, help="Bytes of an image file at most.")] = 32 << 20,
    pixels: Annotated[int, typer.Option(min=1, help="Of the image files of one request at most.")] = 25_000_000,
    transform: Transform = None,
    page: Annotated[bool, typer.Option(" /--no-page", help="No page for people at /.")] = True,
    connections: Annotated[int, typer.Option(min=1, help="Open at once.")] = 512,
    timeout: Annotated[float, typer.Option(help="Seconds until an answer.")] = 30.0,
    client_timeout: Annotated[float, typer.Option(help="Seconds that a client may take to send or read.")] = 10.0,
    drain_delay: Annotated[float, typer.Option(min=0, help="Seconds to go on after SIGTERM, not ready.")] = 0.0,
    shutdown_timeout: Annotated[float, typer.Option(min=0, help="Seconds for running requests at the end.")] = 30.0,
    rate: Annotated[float, typer.Option(help="Chance, over all time, that the watch alarms for nothing.")] = 1e-3,
    outputs: Annotated[
        str | None, typer.Option(help="Offered to clients, as label,trusted; scores help to evade. Default: all.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Name that clients may call it by, repeatedly; * for any. Default: local ones if --host is."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder for a line about each verdict, and for the state of the watch.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help=f"Holds the bearer token; or set {TOKEN}.")] = None,
) -> None:
    """Serve a detector over HTTP. Speaks the Open Inference Protocol (v2, REST), with metrics at /metrics.

    Example: gradgeo serve digits.gradgeo -m digits
    """
    import_module("gradgeo.serve")  # says which extra it needs
    inference, limits = import_module("gradgeo.serve.inference"), import_module("gradgeo.serve.limits")
    server, logs = import_module("gradgeo.serve.server"), import_module("gradgeo.serve.logs")
    pools = import_module("gradgeo.serve.workers")
    with inference.private_folder() as folder:
        serialization = import_module("gradgeo.detector.file.serialization")
        detector = inference.private_file(file, Path(folder), largest=serialization.LARGEST)
        notes = serialization.inspect(detector, sha256=sha256)["notes"]
        spec, weights_file = model_named(notes, model, weights)
        if weights_file is not None:
            weights_file = str(inference.private_file(Path(weights_file), Path(folder)))
        loader = inference.DetectorLoader(detector, partial(_load, spec, weights_file, device), threads)
        service = server.Server(
            pools.Pool(loader, size=workers, timeout=2 * timeout, folder=Path(folder)),
            name=_name(name or file.stem),
            host=host,
            port=port,
            limits=limits.Limits(
                rows=rows,
                body=body,
                json=json_body,
                file=image_bytes,
                pixels=pixels,
                queue=queue,
                batch=batch,
                delay=delay / 1000,
                timeout=timeout,
                client_timeout=client_timeout,
                connections=connections,
            ),
            token=_token(token_file),
            drain_delay=drain_delay,
            shutdown_timeout=shutdown_timeout,
            watch_rate=rate,
            allowed_hosts=allowed_host or None,
            record=record,
            page=page,
            transform=_transform(notes, transform, spec),
            outputs=None if outputs is None else [name.strip() for name in outputs.split(",")],
        )
        with logs.to_stderr():
            server.run(service)


def _load(spec: str, weights: str | None, device: str) -> "nn.Module":
    from gradgeo.data.models import load_model

    return on_device(device, load_model(spec, weights))


def _transform(notes: dict[str, Any], transform: str | None, model: str) -> Any:
    """What prepares files, where the user named it. Raises: DataError for another than that of `fit`."""
    if transform is None:
        return None
    from gradgeo.data.transform import preparation_of

    return preparation_of(notes, transform, model)


def _name(name: str) -> str:
    if not name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
        raise expected("name", "letters, digits, - _ and .", name, "Pass --name.")
    return name


def _token(file: Path | None) -> str | None:
    """The token of the file, or else of the environment; never an argument, which every process could read."""
    if file is None:
        token = os.environ.get(TOKEN)
        if token is None:
            return None
        source = TOKEN
    else:
        source = str(file)
        try:
            token = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the token file {file}: {type(error).__name__}") from error
    token = token.strip()
    if not token.isascii() or not token or any(c.isspace() for c in token):
        raise DataError(f"{source} holds no token: expected one line of ASCII letters, digits and signs")
    return token
