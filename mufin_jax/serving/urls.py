"""Pictures by URL, fetched so that nobody can use the server to reach what is not public.

A server that fetches any URL is a door into its own network: to the metadata of a cloud, to admin
pages, to other services. Here a host must be on the operator's list, its name is resolved once,
every address must be public, and the connection goes to the address that was checked: a name that
points elsewhere a moment later changes nothing. Each redirect is checked as the first URL was.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from mufin_jax.runtime.errors import InputError

PORT = 443
_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSLATED = tuple(
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
)
"""IPv6 networks whose addresses stand for IPv4 ones (NAT64, 6to4, Teredo)."""

Resolve = Callable[[str], Sequence[str]]
"""Returns the addresses of a host's name."""
Connect = Callable[[str, str, float], http.client.HTTPConnection]
"""Returns a connection to a host at an address, with a timeout in seconds."""


class Limits(NamedTuple):
    """What a fetch may cost.

    Attributes:
        seconds: from the first to the last byte, with all redirects.
        size: bytes of a picture.
        hops: redirects that are followed.
    """

    seconds: float = 5.0
    size: int = 10_000_000
    hops: int = 3


_LIMITS = Limits()


def resolve(host: str) -> list[str]:
    """Return the addresses of a host's name, in the order of the system.

    Raises:
        OSError: if it has none.
    """
    found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _CheckedConnection(http.client.HTTPSConnection):
    """A connection to an address that was checked, with the certificate of the host."""

    def __init__(self, host: str, address: str, timeout: float):
        super().__init__(host, PORT, timeout=timeout, context=ssl.create_default_context())
        self._address, self._tls = address, ssl.create_default_context()

    def connect(self) -> None:
        plain = socket.create_connection((self._address, PORT), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet, however it is written.

    IPv4 addresses inside IPv6 ones (mapped, compatible, NAT64, 6to4, Teredo) are never public here:
    no picture host needs them, and each form is a way around a check.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped is not None or int(found) < 1 << 32
        if inside or any(found in network for network in _TRANSLATED):
            return False
    return found.is_global and not found.is_multicast


class PictureUrls:
    """Fetches pictures from the hosts of a list.

    Args:
        hosts: names that are allowed, such as "images.example.com"; no addresses, no patterns.
        limits: what a fetch may cost.
        resolve: finds a host's addresses.
        connect: opens a connection to an address.

    Raises:
        InputError: if a host is no name.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        limits: Limits = _LIMITS,
        resolve: Resolve = resolve,
        connect: Connect = _CheckedConnection,
    ):
        self._hosts = frozenset(_host(name) for name in hosts)
        self._limits, self._resolve, self._connect = limits, resolve, connect

    def fetch(self, url: str) -> bytes:
        """Return the bytes of a picture.

        Raises:
            InputError: if the URL is not allowed, or gives no picture within the limits.
        """
        end = time.monotonic() + self._limits.seconds
        for _ in range(self._limits.hops + 1):
            found = self._get(url, end)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise InputError(f"a picture's URL: more than {self._limits.hops} redirects")

    def _get(self, url: str, end: float) -> bytes | str:
        """Return the bytes behind a URL, or where it redirects to."""
        host, target = self._checked(url)
        with _failures(host):
            address = self._address(host)
            connection = self._connect(host, address, _left(end, host))
            with contextlib.closing(connection):
                connection.request("GET", target, headers={"Accept": "image/*"})
                answer = connection.getresponse()
                if answer.status in _REDIRECTS and (place := answer.getheader("Location")):
                    return place
                if answer.status != 200:
                    raise InputError(f"a picture's URL: {host} answered {answer.status}")
                return self._read(answer, connection, end, host)

    def _read(
        self, answer: http.client.HTTPResponse, connection: http.client.HTTPConnection,
        end: float, host: str,
    ) -> bytes:  # fmt: skip
        """Return the body, however slowly it comes, within the limits."""
        most, body = self._limits.size, bytearray()
        too_large = f"a picture's URL: {host}: more than {most:,} bytes; expected a smaller picture"
        if (answer.length or 0) > most:
            raise InputError(too_large)
        while chunk := answer.read1(_CHUNK):
            body += chunk
            if len(body) > most:
                raise InputError(too_large)
            left = _left(end, host)
            if connection.sock is not None:
                connection.sock.settimeout(left)
        return bytes(body)

    def _checked(self, url: str) -> tuple[str, str]:
        """Return the host and the target of a URL.

        Raises:
            InputError: if it is not https, its host is not on the list, or it names another port or
                a user.
        """
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise InputError("a picture's URL: not a URL; expected https://HOST/PATH") from None
        if parts.scheme != "https" or "@" in parts.netloc or port not in (None, PORT):
            raise InputError(
                "a picture's URL: expected https://HOST/PATH, without a user or another port"
            )
        if host not in self._hosts:
            raise InputError(
                f"a picture's URL: the host {host!r:.80} is not allowed; the server's option "
                "--image-hosts names those that are"
            )
        return host, _target(parts)

    def _address(self, host: str) -> str:
        """Return an address of a host, all of whose addresses are public.

        Raises:
            InputError: if one is not.
        """
        addresses = self._resolve(host)
        if not addresses or not all(map(is_public, addresses)):
            raise InputError(f"a picture's URL: {host} is no host of the public internet")
        return addresses[0]


def _host(name: str) -> str:
    """Return the name of a host of the operator's list.

    Raises:
        InputError: if it is an address, a pattern or a URL.
    """
    plain = name.strip().lower().rstrip(".")
    try:
        ipaddress.ip_address(plain.strip("[]"))
        plain = ""
    except ValueError:
        pass
    odd = set(plain) - set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    if not plain or odd or "." not in plain or plain.split(".")[-1].isdigit():
        raise InputError(
            f"--image-hosts: {name!r:.80}: expected the name of a host, such as images.example.com"
        )
    return plain


def _target(parts: SplitResult) -> str:
    """Return the path and the query of a URL in the characters that HTTP allows."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if any(ord(one) < 33 or ord(one) > 126 for one in target):
        raise InputError("a picture's URL: expected blanks and other scripts as %20 and the like")
    return target


def _left(end: float, host: str) -> float:
    """Return the seconds left; raise InputError if there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise InputError(f"a picture's URL: {host} is too slow")
    return left


@contextlib.contextmanager
def _failures(host: str) -> Iterator[None]:
    """Turn failures of the network into an InputError that tells nothing of the server's own."""
    try:
        yield
    except TimeoutError:
        raise InputError(f"a picture's URL: {host} is too slow") from None
    except (OSError, http.client.HTTPException, UnicodeError):
        raise InputError(f"a picture's URL: {host} cannot be read") from None
