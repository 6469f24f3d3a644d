"""Objects between processes, the numbers of their arrays as they lie.

`Connection.send` pickles arrays with the rest, which copies them while it holds the interpreter lock: for a batch of a
hundred megabytes the event loop would answer nobody meanwhile. To write them as they lie to the pipe releases it.
"""

import pickle
from multiprocessing.connection import Connection
from typing import Any


def send(pipe: Connection, value: Any) -> None:
    """Write `value` to the pipe. Raises: OSError where the other end is closed."""
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    pipe.send(len(buffers))
    pipe.send_bytes(text)
    for buffer in buffers:
        pipe.send_bytes(buffer.raw())


def receive(pipe: Connection) -> Any:
    """What `send` wrote at the other end, which is a process of ours. Raises: EOFError, OSError."""
    count = pipe.recv()
    text = pipe.recv_bytes()
    buffers = [bytearray(pipe.recv_bytes()) for _ in range(count)]  # arrays can be written to only where these can
    return pickle.loads(text, buffers=buffers)
