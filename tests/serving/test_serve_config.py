"""The limits of a server: what admits no request is rejected by its option's name."""

import re

import pytest

from mufin_jax.runtime.errors import InputError
from mufin_jax.serving.config import ServeConfig


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"queue": 0}, "--queue=0: expected at least 1"),
        ({"deadline": 0.0}, "--deadline=0.0: expected at least 0.001"),
        ({"drain_delay": -1.0}, "--drain-delay=-1.0: expected at least 0"),
        ({"drain_delay": float("nan")}, "--drain-delay=nan: expected at least 0"),
        ({"body": 10}, "--body=10: expected at least 1024"),
        ({"port": 70_000}, "--port=70000: expected 0 to 65535"),
        ({"probe_port": -1}, "--probe-port=-1: expected 0 to 65535"),
        ({"port": 8000, "probe_port": 8000}, "--probe-port=8000 is --port"),
        ({"queue": 16, "items": 32}, "--queue=16: expected at least --items=32"),
        ({"image_hosts": ("10.0.0.1",)}, "--image-hosts: '10.0.0.1': expected the name of a host"),
    ],
)
def test_limits_that_admit_no_request_are_rejected(wrong, line):
    with pytest.raises(InputError, match=re.escape(line)):
        ServeConfig(**wrong)


def test_a_server_listens_to_its_own_machine_alone_unless_it_is_told_otherwise():
    assert ServeConfig().host == "127.0.0.1" and ServeConfig().image_hosts == ()
    assert ServeConfig(port=0, probe_port=0).port == 0  # any free port
