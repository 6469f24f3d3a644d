"""The error that a request is answered with."""

from collections.abc import Mapping


class ProtocolError(Exception):
    """A request that is answered with an error status, and why."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})
