"""An address that is taken, and file descriptors that do not suffice, are told before anything is loaded."""

import asyncio
import resource
import socket
import threading
from typing import Any

import pytest

from gradgeo.errors import ArgumentError
from gradgeo.serve.address import SPARE_DESCRIPTORS, check_descriptors, reserve
from gradgeo.serve.server import Server, run
from helpers.serving import LocalPool


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Counting(LocalPool):
    """Counts how often it was loaded."""

    loads = 0

    async def start(self) -> Any:
        self.loads += 1
        return await super().start()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no claims on names on this system")
def test_a_second_server_is_told_while_the_first_loads() -> None:
    """With SO_REUSEADDR both could bind; neither listens yet."""
    port, pool = free_port(), Counting()
    with reserve("127.0.0.1", port):
        with pytest.raises(ArgumentError, match=f"host and port to be free to listen at, got '127.0.0.1:{port}'"):
            run(Server(pool, name="m", port=port))
        assert pool.loads == 0
    with reserve("127.0.0.1", port):  # and is free again
        pass


@pytest.mark.process
def test_an_address_that_is_taken_while_it_loads_is_told_in_words() -> None:
    """By something else than this program, which claims no name; the workers are ended."""
    port = free_port()

    class Overtaken(LocalPool):
        async def start(self) -> Any:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            return await super().start()

    pool = Overtaken()
    with (
        socket.socket() as other,
        pytest.raises(ArgumentError, match=f"host and port to be free to listen at, got '127.0.0.1:{port}'"),
    ):
        run(Server(pool, name="m", port=port))
    assert pool.closed


def test_descriptors_are_raised_or_the_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: raised.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 1000))
    check_descriptors(30)
    assert raised == []
    check_descriptors(500)
    assert raised == [(500 + SPARE_DESCRIPTORS, 1000)]
    with pytest.raises(
        ArgumentError, match=r"expected connections to be at most 936, .* may open 1000 files, got 2000"
    ):
        check_descriptors(2000)


def test_asked_to_end_while_it_loads_it_ends_at_once() -> None:
    class Slow(LocalPool):
        cancelled = False

        async def start(self) -> Any:
            loading.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise

    loading, pool = threading.Event(), Slow()
    server = Server(pool, name="m", port=0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    assert loading.wait(20)
    server.handle_exit(15, None)
    thread.join(10)
    assert not thread.is_alive()
    assert pool.cancelled
    assert server.failure is None


def test_answers_do_not_wait_for_an_acknowledgement() -> None:
    """asyncio sets TCP_NODELAY on connections of sockets that name their protocol; else each answer takes 40 ms more."""
    for host in ("127.0.0.1", "::1") if socket.has_ipv6 else ("127.0.0.1",):
        try:
            with reserve(host, 0) as listening:
                assert listening.proto == socket.IPPROTO_TCP
        except ArgumentError:
            assert host == "::1"  # no such address here
