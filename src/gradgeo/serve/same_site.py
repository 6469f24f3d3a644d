"""Which names the server answers to, so that no page of another site can use it through the browser of a user.

A page can send requests to this machine and, once its name resolves to it (DNS rebinding), read the answers. Then
`Host` names the page's site, and `Origin` does where the browser sends one.
"""

from collections.abc import Collection, Iterable
from ipaddress import ip_address

LOCAL = ("localhost", "127.0.0.1", "[::1]")
ANY = "*"


class SameSite:
    """What the headers `Host` and `Origin` may say.

    Args:
        bound: the address that the server listens at.
        allowed: names of the server; None for those of this machine where `bound` is one of them, and otherwise any.
    """

    def __init__(self, bound: str, allowed: Collection[str] | None) -> None:
        own = {*LOCAL, _bracketed(bound)} if _is_loopback(bound) else {ANY}
        self._hosts = own if allowed is None else {_bracketed(name) for name in allowed}
        self._origins = set() if allowed is None else self._hosts

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """Status and text for a request with these headers, or None."""
        host, origins = "", []
        for name, value in headers:
            if name == b"host":
                host = value.decode("latin-1").strip().lower()
            elif name == b"origin":
                origins.append(value.decode("latin-1").strip().lower())
        if ANY not in self._hosts and _name(host) not in self._hosts:
            return 421, "expected the header Host to name this server. Start it with --allowed-host for other names."
        for origin in origins:
            site = origin.partition("://")[2]  # nothing for the origin "null"
            if site != host and _name(site) not in self._origins:
                return 403, "expected no header Origin of another site. Start the server with --allowed-host for it."
        return None


def _name(authority: str) -> str:
    """`authority` without its port."""
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0].removesuffix(".")


def _bracketed(name: str) -> str:
    return f"[{name}]".lower() if ":" in name and not name.startswith("[") else name.lower()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
