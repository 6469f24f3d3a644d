"""The server process: uvicorn with deadlines for slow clients, and an orderly shutdown."""

import asyncio
import gc
import json
import logging
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gradgeo.errors import GradgeoError, expected
from gradgeo.serve.address import check_descriptors, reserve
from gradgeo.serve.app import create_app
from gradgeo.serve.limits import Limits
from gradgeo.serve.logs import event
from gradgeo.serve.middleware import EXCESS, TOO_MANY, RequestMiddleware
from gradgeo.serve.protocol import OUTPUTS
from gradgeo.serve.same_site import SameSite
from gradgeo.serve.service import Service
from gradgeo.serve.workers import Pool

EXCESS_TIMEOUT = 1.0
"""Seconds that a connection in excess has for its request."""


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 with a deadline for the headers of a request, from the opening of the connection or their first byte.

    uvicorn's own deadline covers only a connection on which nothing comes after an answer, and its limit on
    connections refuses those that were there before along with those in excess.
    """

    most = 512  # connections
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request; in excess, one to be refused."""
        super().connection_made(transport)
        excess = len(self.connections) > self.most
        self.app_state = {**self.app_state, EXCESS: excess}  # becomes the state of each request
        self._set_deadline(min(EXCESS_TIMEOUT, self.timeout_keep_alive) if excess else self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._idle and self._deadline is None:
            self._set_deadline(self.timeout_keep_alive)
        super().data_received(data)
        if not self._idle:
            self._cancel_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in JSON, as everything else."""
        self._refuse("400 Bad Request", msg)

    def _refuse(self, status: str, text: str) -> None:
        body = json.dumps({"error": text}).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._on_deadline)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if not self._idle or self.transport.is_closing():
            return
        if self.app_state[EXCESS] and self.cycle is None:  # also to a client that is busy opening more connections
            self._refuse("503 Service Unavailable", TOO_MANY)
        else:
            self.transport.close()


class Server(uvicorn.Server):
    """A server for one model, from the loading of its workers to the last answer.

    Args:
        pool: the workers, started and ended by the server.
        name: of the model in paths.
        host, port: where to listen; port 0 takes a free one, which `address` then names.
        limits: see `Limits`.
        token: that clients must send; health is open to all.
        drain_delay: seconds that the server goes on taking requests after SIGTERM while it says that it is not ready,
            for a load balancer to notice.
        shutdown_timeout: seconds that running requests then have to end.
        watch_rate: chance of a false alarm, over all time, of each watch.
        allowed_hosts: names that clients may call the server by; "*" for any. None for the names of this machine where
            `host` is one, and otherwise any.
        outputs: that clients may ask for; None for all.
        record: a folder for a line about every verdict (`gradgeo.serve.record`) and the state of the watches, which
            then goes on after a restart; None for neither.
        page: whether people get a page at `/`.
        transform: as in `Service`.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        name: str,
        host: str = "127.0.0.1",
        port: int = 8000,
        limits: Limits | None = None,
        token: str | None = None,
        drain_delay: float = 0.0,
        shutdown_timeout: float = 30.0,
        watch_rate: float = 1e-3,
        allowed_hosts: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        record: Path | None = None,
        page: bool = True,
        transform: Any = None,
    ) -> None:
        self._record = record
        self._pool, self._name, self._drain_delay, self._watch_rate = pool, name, drain_delay, watch_rate
        self.limits, self._outputs, self._transform = limits or Limits(), _outputs(outputs), transform
        self._service: Service | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self.failure: GradgeoError | None = None
        routes = create_app(self.service, self._lifespan, page=page)
        app = RequestMiddleware(routes, self.service, token=token, same_site=SameSite(host, allowed_hosts))

        class Protocol(DeadlineProtocol):
            most = self.limits.connections

        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=Protocol,
                ws="none",
                lifespan="on",
                loop="asyncio",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=self.limits.client_timeout,  # type: ignore[arg-type]  # seconds need not be whole
                timeout_graceful_shutdown=shutdown_timeout,  # type: ignore[arg-type]
            )
        )

    def service(self) -> Service:
        """What the routes work with, once the workers have loaded."""
        assert self._service is not None
        return self._service

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where it listens, once `started`."""
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        return host, port

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        keeping = asyncio.ensure_future(self.service().keep_watching())
        try:
            yield
        finally:
            keeping.cancel()
            await self.service().close()
            event("ended")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load, then listen. Where either fails, `failure` says why and the server ends."""
        facts = await self._load()
        if facts is None:
            self.should_exit = True
            return
        self._service = Service(
            self._pool,
            facts,
            self._name,
            self.limits,
            watch_rate=self._watch_rate,
            outputs=self._outputs,
            folder=self._record,
            transform=self._transform,
        )
        self._service.batcher.start()
        event("loaded", model=self._name, version=self._service.version, workers=self._pool.pids)
        try:
            await super().startup(sockets)
        except OSError as error:  # another server has begun to listen there meanwhile
            self.failure = expected("host and port", "free to listen at", self._configured_address, f"{error}.")
            event("cannot listen", logging.ERROR, error=str(error))
            await self.lifespan.shutdown()
            self.should_exit = True
            return
        host, port = self.address
        event("listening", host=host, port=port)

    async def _load(self) -> Any:
        """The facts of what the workers have loaded; None where they cannot, or the server is asked to end before."""
        self._loop = asyncio.get_running_loop()
        loading = asyncio.ensure_future(self._pool.start())
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        try:
            if loading.done():
                return loading.result()
            event("ended while loading")
        except GradgeoError as error:
            self.failure = error
            event("cannot load", logging.ERROR, error=str(error))
        finally:
            for task in (loading, stopped):
                task.cancel()
            await asyncio.gather(loading, stopped, return_exceptions=True)
        return None

    @property
    def _configured_address(self) -> str:
        return f"{self.config.host}:{self.config.port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end: not ready now, closed to new connections after `drain_delay`; a second signal ends at once."""
        if self._service is None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
        first = self._service is not None and not self._service.draining
        if not first or sig != signal.SIGTERM or not self._drain_delay:
            if self._service is not None:
                self._service.draining = True
            super().handle_exit(sig, frame)
            return
        self._service.draining = True  # type: ignore[union-attr]
        event("draining", seconds=self._drain_delay)
        asyncio.get_running_loop().call_later(self._drain_delay, super().handle_exit, sig, frame)


def run(server: Server) -> None:
    """Serve until SIGTERM or SIGINT; returns when the last request has been answered.

    Raises: StartError where the workers cannot load; ArgumentError where the address cannot be listened at.
    """
    config = server.config
    check_descriptors(server.limits.connections)
    with reserve(config.host, config.port) as listening:
        _run(server, listening)
    if server.failure is not None:
        raise server.failure


def _run(server: Server, listening: socket.socket) -> None:
    gc.collect()
    gc.freeze()  # what is loaded stays: to look through it for garbage takes a tenth of a second that all wait for
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in handlers:
            signal.signal(number, lambda *_: None)  # uvicorn raises the signal once more when it is done
        server.run(sockets=[listening])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.unfreeze()


def _outputs(names: Sequence[str] | None) -> tuple[str, ...]:
    """The outputs that are offered, in the order of the protocol."""
    wanted = set(OUTPUTS if names is None else names)
    if not wanted or not wanted <= set(OUTPUTS):
        raise expected("outputs", f"among {', '.join(OUTPUTS)}", ", ".join(sorted(wanted)))
    return tuple(name for name in OUTPUTS if name in wanted)
