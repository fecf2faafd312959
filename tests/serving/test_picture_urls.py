"""Pictures by URL: only from listed, public hosts; no way around by names, addresses, redirects."""

import contextlib
import http.client
import http.server
import threading
import time

import pytest

from mufin_jax.runtime.errors import InputError
from mufin_jax.serving import urls
from mufin_jax.serving.urls import Limits, PictureUrls, is_public

HOST = "images.example.com"
PUBLIC = "93.184.215.14"
JPEG = b"\xff\xd8 a picture"


class Site(http.server.BaseHTTPRequestHandler):
    """A host of pictures, redirects and trouble."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(f"{self.headers['Host']} {self.path}")
        place = self.path.removeprefix("/to/")
        if place != self.path:
            self.send_response(302)
            self.send_header("Location", place)
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(301)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/large":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(2000))
        elif self.path == "/said":
            self.send_response(200)
            self.send_header("Content-Length", "100000000")
            self.end_headers()
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b".")
                    time.sleep(0.02)
        elif self.path == "/absent":
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(JPEG)

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def server():
    Site.asked = []
    server = http.server.ThreadingHTTPServer(("localhost", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def site(server):
    """The port of the host of pictures; it forgets what it was asked before."""
    Site.asked = []
    return server.server_address[1]


def pictures(site, addresses=(PUBLIC,), dialled=None, **limits):
    """Return the fetcher of a test; each address that it dials is noted, and the site answers."""

    def connect(host, address, timeout):
        if dialled is not None:
            dialled.append(address)
        connection = http.client.HTTPConnection("localhost", site, timeout=timeout)
        connection.request = lambda method, target, headers: http.client.HTTPConnection.request(
            connection, method, target, headers=headers | {"Host": host}
        )
        return connection

    names = iter(addresses) if isinstance(addresses, list) else None
    limits = Limits(**({"seconds": 2.0, "size": 1000} | limits))
    return PictureUrls(
        [HOST, "other.example.com"], limits,
        resolve=lambda host: next(names) if names else addresses, connect=connect,
    )  # fmt: skip


def test_a_picture_of_a_listed_host_comes_from_the_address_that_was_checked(site):
    dialled = []
    assert pictures(site, dialled=dialled).fetch(f"https://{HOST}/a.jpg?size=2") == JPEG
    assert dialled == [PUBLIC] and Site.asked == [f"{HOST} /a.jpg?size=2"]
    for same in (f"HTTPS://{HOST.upper()}/a.jpg", f"https://{HOST}.:443/a.jpg", f"https://{HOST}"):
        assert pictures(site).fetch(same) == JPEG


URLS = [
    "http://images.example.com/a.jpg", "ftp://images.example.com/a.jpg", "file:///etc/passwd",
    "gopher://images.example.com/", "//images.example.com/a.jpg", "images.example.com/a.jpg", "",
    "https://", "https:///a.jpg", "https://images.example.com:80/a.jpg",
    "https://images.example.com:8443/a.jpg", "https://images.example.com:0/", "https://[::1]/a.jpg",
    "https://images.example.com:99999/", "https://user@images.example.com/a.jpg",
    "https://images.example.com@169.254.169.254/", "https://169.254.169.254/latest/meta-data/",
    "https://127.0.0.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/",
    "https://127.1/", "https://localhost/", "https://localhost.localdomain/", "https://[::]/",
    "https://[::ffff:127.0.0.1]/", "https://[fe80::1%25eth0]/", "https://evil.example/a.jpg",
    "https://images.example.com.evil.example/", "https://evil.example#images.example.com/",
    "https://evil.example?images.example.com", "https://evil.example\\@images.example.com/",
    "https://xn--images.example.com/", "https://images。example。com.evil.example/",
    "https://images.example.com\\.evil.example/", "https://sub.images.example.com/",
    "https://example.com/", "https://images.example.com%00.evil.example/",
    "https://images.example.com /a.jpg", "https://images.example.com/a b", "https://[bad/a",
    "https://images.example.com/a\r\nX-Injected: 1", "data:image/png;base64,AAAA",
    "https://images.example.com/ä.jpg", "jar:https://images.example.com/!/a",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_is_not_https_to_a_listed_host_is_rejected_before_any_connection(site, url):
    dialled = []
    with pytest.raises(InputError, match="a picture's URL: "):
        pictures(site, dialled=dialled).fetch(url)
    assert not dialled and not Site.asked


PRIVATE = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "198.18.0.1", "192.0.2.1", "::1",
    "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::ffff:93.184.215.14", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "2001:db8::1",
    "not an address", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_listed_host_at_an_address_that_is_not_public_is_rejected(site, address):
    assert not is_public(address)
    for addresses in ((address,), (PUBLIC, address), (address, PUBLIC)):
        dialled = []
        with pytest.raises(InputError, match="no host of the public internet"):
            pictures(site, addresses, dialled).fetch(f"https://{HOST}/a.jpg")
        assert not dialled


def test_public_addresses_are_public():
    assert all(map(is_public, (PUBLIC, "8.8.8.8", "2606:4700::1111")))


def test_a_name_that_points_elsewhere_at_its_second_use_is_not_resolved_twice(site):
    dialled = []
    rebinding = pictures(site, [(PUBLIC,), ("127.0.0.1",)], dialled)
    assert rebinding.fetch(f"https://{HOST}/a.jpg") == JPEG
    assert dialled == [PUBLIC]
    with pytest.raises(InputError, match="no host of the public internet"):
        rebinding.fetch(f"https://{HOST}/a.jpg")


def test_a_redirect_is_checked_as_the_first_url_is(site):
    dialled = []
    there = f"https://{HOST}/to/https://other.example.com/to//b.jpg"
    assert pictures(site, dialled=dialled).fetch(there) == JPEG
    assert Site.asked[1:] == ["other.example.com /to//b.jpg", "other.example.com /b.jpg"]
    for place in ("http://images.example.com/", "https://169.254.169.254/", "//evil.example/",
                  "https://images.example.com:8443/", "file:///etc/passwd"):  # fmt: skip
        with pytest.raises(InputError, match="a picture's URL: "):
            pictures(site).fetch(f"https://{HOST}/to/{place}")
    with pytest.raises(InputError, match="no host of the public internet"):
        pictures(site, [(PUBLIC,), ("10.0.0.1",)]).fetch(f"https://{HOST}/to//a.jpg")


def test_redirects_end_after_three(site):
    with pytest.raises(InputError, match="more than 3 redirects"):
        pictures(site).fetch(f"https://{HOST}/loop")
    assert len(Site.asked) == 4


@pytest.mark.parametrize("path", ["large", "said"])
def test_a_picture_that_is_too_large_is_not_read_to_its_end(site, path):
    with pytest.raises(InputError, match="more than 1,000 bytes; expected a smaller picture"):
        pictures(site).fetch(f"https://{HOST}/{path}")


def test_a_host_that_sends_a_byte_at_a_time_is_left_when_the_time_is_over(site):
    begin = time.monotonic()
    with pytest.raises(InputError, match="is too slow"):
        pictures(site, seconds=0.2).fetch(f"https://{HOST}/slow")
    assert time.monotonic() - begin < 1


def test_failures_of_a_host_are_one_line_without_the_servers_own_network(site, monkeypatch):
    with pytest.raises(InputError, match="answered 404"):
        pictures(site).fetch(f"https://{HOST}/absent")

    def nobody(host):
        raise OSError("resolver 10.1.2.3 does not answer")

    lost = PictureUrls([HOST], resolve=nobody)
    with pytest.raises(InputError, match=f"{HOST} cannot be read$"):
        lost.fetch(f"https://{HOST}/a.jpg")


def test_the_certificate_must_be_that_of_the_host(monkeypatch):
    """The connection goes to the address; the name that TLS checks is the host's."""
    dialled, named = [], []
    monkeypatch.setattr(
        urls.socket, "create_connection", lambda place, timeout: dialled.append(place)
    )
    connection = urls._CheckedConnection(HOST, PUBLIC, 1.0)
    assert connection._tls.check_hostname and connection._tls.verify_mode == urls.ssl.CERT_REQUIRED
    monkeypatch.setattr(
        type(connection._tls), "wrap_socket",
        lambda self, sock, server_hostname: named.append(server_hostname),
    )  # fmt: skip
    connection.connect()
    assert dialled == [(PUBLIC, 443)] and named == [HOST]


@pytest.mark.parametrize(
    "wrong", ["", "*", "*.example.com", "https://images.example.com", "10.0.0.1", "[::1]", "a b.c",
              "localhost", "images.example.com:443", "2130706433", "1.2.3"],
)  # fmt: skip
def test_the_list_of_hosts_holds_names_alone(wrong):
    with pytest.raises(InputError, match=r"--image-hosts: .*expected the name of a host"):
        PictureUrls([wrong])
