"""A server as a process of its own: ready when warm, answers of the predictor, a gentle end."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import httpx2
import minute
import pytest

from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import InputError
from mufin_jax.serving.config import ServeConfig
from mufin_jax.serving.server import serve, token

PATIENCE = 120
TOKEN = "a token of 26 characters"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_server_answers_as_the_predictor_does_changes_labels_and_ends_gently(
    minute_run, compiled, tmp_path
):
    run, port, probes = tmp_path / "run", free_port(), free_port()
    shutil.copytree(minute_run, run)
    (tmp_path / "token").write_text(TOKEN)
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
    probe = httpx2.Client(base_url=f"http://127.0.0.1:{probes}", timeout=PATIENCE)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "mufin_jax", "serve", str(run), f"--port={port}",
            f"--probe-port={probes}", f"--admin-token-file={tmp_path / 'token'}",
            "--drain-delay=1", "--k=20", "--access-log",
        ],
        env=minute.environment(compiled), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        codes = wait_until_ready(process, probe)
        assert codes[0] == 503  # it listens before it is ready
        items = [{"title": "red lamp"}, {"title": "blue chair"}]
        found = client.post("/v1/predict", json={"items": items, "k": 5}).json()
        wanted = Predictor.load(run).predict(items, 5)
        for answer, own in zip(found["answers"], wanted, strict=True):
            assert [one["id"] for one in answer["labels"]] == [one.id for one in own]
            # This process has eight devices: XLA compiles another program for each number of them.
            scores = [one["score"] for one in answer["labels"]]
            assert scores == pytest.approx([one.score for one in own], rel=1e-6)
        first = wanted[0][0].id
        admin = {"Authorization": f"Bearer {TOKEN}"}
        removed = client.delete(f"/v1/labels/{first}", headers=admin)
        assert removed.json() == {"version": 1}
        found = client.post("/v1/predict", json={"items": items[:1], "k": 20}).json()
        assert found["version"] == 1
        assert first not in [one["id"] for one in found["answers"][0]["labels"]]
        assert "mufin_compilations_total 0.0" in client.get("/metrics").text
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert probe.get("/readyz").status_code == 503
        assert client.post("/v1/predict", json={"items": items}).status_code == 200
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0, err
        logged = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        assert {"/v1/predict", "/metrics"} <= {line["route"] for line in logged}
        assert TOKEN not in out + err
    finally:
        client.close()
        probe.close()
        process.kill()
        process.communicate()


def wait_until_ready(process, probe):
    """Return the codes of /readyz up to the first 200."""
    codes, end = [], time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        try:
            codes.append(probe.get("/readyz").status_code)
        except httpx2.ConnectError:
            continue
        finally:
            time.sleep(0.1)
        if codes[-1] == 200:
            return codes
    raise AssertionError(codes)


def finished(folder):
    """Return a folder that looks like that of a finished run."""
    (folder / "finetune" / "predictor").mkdir(parents=True)
    (folder / "finetune" / "predictor" / "predictor.json").write_text("{}")
    return folder


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServeConfig(port=taken.getsockname()[1])
        with pytest.raises(InputError, match=r"--port=\d+: cannot listen"):
            serve(finished(tmp_path), config)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_the_reason(tmp_path):
    def load(run):
        raise InputError("a file is damaged")

    with pytest.raises(InputError, match="a file is damaged"):
        serve(finished(tmp_path), ServeConfig(port=0), load)


def test_a_folder_without_a_finished_run_is_rejected(tmp_path):
    with pytest.raises(InputError, match="no trained model there"):
        serve(tmp_path, ServeConfig(port=0))


def test_a_token_comes_from_a_file_and_is_not_short(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert token(file) == TOKEN and token(None) == ""
    for content in (b"short", b"", b"\xff" * 30):
        file.write_bytes(content)
        with pytest.raises(InputError, match="--admin-token-file"):
            token(file)
    with pytest.raises(InputError, match="cannot be read"):
        token(tmp_path / "absent")
