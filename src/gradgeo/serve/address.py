"""The address of a server, taken before it loads, and the file descriptors for its connections."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from gradgeo.errors import expected

SPARE_DESCRIPTORS = 64
"""For libraries, logs, pipes of workers, and connections in excess while they are refused."""


@contextmanager
def reserve(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to the address, not listening yet: clients are refused until all is loaded.

    Raises: ArgumentError where something listens there, or another server is loading for it.
    """
    with ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sets TCP_NODELAY where the protocol is named, and else each answer in two parts waits 40 ms for an ACK
        listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also just after a server there has ended
        try:
            if port:
                _claim(f"gradgeo-serve-{host}-{port}", stack)
            listening.bind((host, port))
        except (OSError, OverflowError) as error:
            raise expected("host and port", "free to listen at", f"{host}:{port}", f"{error}.") from error
        yield listening


def _claim(name: str, stack: ExitStack) -> None:
    """Hold a name that one process of the system can have until it ends.

    With SO_REUSEADDR two sockets that do not listen yet bind to one address, and the later of two servers would load a
    model only to hear that it cannot listen. Elsewhere than on Linux it hears it then.
    """
    if sys.platform == "linux":
        claim = stack.enter_context(socket.socket(socket.AF_UNIX))
        claim.bind(f"\0{name}")  # abstract: no file, gone with the process


def check_descriptors(connections: int) -> None:
    """Raise the limit of open files so that so many connections fit.

    Raises: ArgumentError where the system does not allow as many.
    """
    try:
        import resource
    except ImportError:  # no such limit on this system
        return
    needed = connections + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        rule = f"at most {max(0, hard - SPARE_DESCRIPTORS)}, for this process may open {hard} files"
        raise expected("connections", rule, connections, "Pass fewer --connections, or raise the limit (ulimit -n).")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
