"""The settings of a server, each with the reason for its value."""

import dataclasses
from pathlib import Path

from mufin_jax.runtime.errors import InputError
from mufin_jax.serving.urls import PictureUrls


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Limits of requests, and how the server starts and ends.

    Attributes:
        host: the address to listen at; 0.0.0.0 for all of the machine.
        port: of requests.
        probe_port: of /livez and /readyz alone, answered by a thread of their own: load cannot
            delay them. 0 leaves them at `port` only.
        admin_token_file: a file with the token that changes of labels require; without one, labels
            cannot be changed over HTTP.
        image_hosts: hosts from which pictures may be named by URL; none allows no URL.
        drain_delay: seconds to go on accepting after SIGTERM, while load balancers learn of it.
        queue: items that may wait; more are turned away at once. At a few milliseconds an item,
            these take a second.
        deadline: seconds until an answer that is not there yet is of no use.
        body: bytes of a request: eight photos of a telephone, or hundreds of small ones.
        items: of a request.
        pictures: of an item.
        pixels: of a picture. Decoding one of sixteen megapixels takes a tenth of a second.
        k: labels of an item, at most.
        decoders: threads that decode pictures; 0 takes one for each core but one.
        access_log: a line of JSON for each request on stdout.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    probe_port: int = 0
    admin_token_file: Path | None = None
    image_hosts: tuple[str, ...] = ()
    drain_delay: float = 5.0
    queue: int = 512
    deadline: float = 15.0
    body: int = 8 << 20
    items: int = 32
    pictures: int = 16
    pixels: int = 16_000_000
    k: int = 100
    decoders: int = 0
    access_log: bool = False

    def __post_init__(self) -> None:
        """Reject limits that admit no request, and hosts that are no names."""
        least = {"queue": 1, "body": 1024, "items": 1, "pictures": 0, "pixels": 1, "k": 1}
        least |= {"drain_delay": 0, "deadline": 0.001, "decoders": 0}
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise InputError(
                    f"--{name.replace('_', '-')}={getattr(self, name)}: expected at least {low}"
                )
        for name in ("port", "probe_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise InputError(
                    f"--{name.replace('_', '-')}={getattr(self, name)}: expected 0 to 65535"
                )
        if self.port and self.port == self.probe_port:
            raise InputError(f"--probe-port={self.port} is --port; expected another one, or 0")
        if self.queue < self.items:
            raise InputError(
                f"--queue={self.queue}: expected at least --items={self.items}: a request of that "
                "many would never be taken"
            )
        PictureUrls(self.image_hosts)  # rejects what is no name
