"""Probes: answered by threads of their own, whatever else happens; idle clients hinder nobody."""

import http.client
import json
import socket

import pytest

from mufin_jax.serving.probes import Probes


@pytest.fixture
def states():
    return {"live": (True, "all is well"), "ready": (False, "loading")}


@pytest.fixture
def probes(states):
    probes = Probes("127.0.0.1", 0, lambda: states["live"], lambda: states["ready"])
    yield probes
    probes.close()


def get(probes, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", probes.port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_a_probe_reports_the_state_of_this_moment(probes, states):
    assert get(probes, "/livez")[0] == 200
    code, body = get(probes, "/readyz?verbose")
    assert code == 503 and json.loads(body) == {"ok": False, "about": "loading"}
    states["ready"], states["live"] = (True, ""), (False, "the model's thread has died")
    assert get(probes, "/readyz")[0] == 200 and get(probes, "/livez")[0] == 503


def test_only_probes_are_answered(probes):
    assert get(probes, "/metrics")[0] == 404
    assert get(probes, "/livez", "HEAD") == (200, b"")
    assert get(probes, "/livez", "POST")[0] == 501


def test_clients_that_send_nothing_do_not_delay_a_probe(probes):
    idle = [socket.create_connection(("127.0.0.1", probes.port)) for _ in range(50)]
    assert get(probes, "/livez")[0] == 200
    for one in idle:
        one.close()
