"""The routes, with a predictor that is made up: what is answered, refused, and told to nobody."""

import base64
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mufin_jax.prediction.answers import Explanation, PartOfScore, Prediction
from mufin_jax.prediction.catalogue import Catalogue
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.runtime.errors import Held, InputError
from mufin_jax.serving.app import build_app
from mufin_jax.serving.config import ServeConfig
from mufin_jax.serving.edge import Edge
from mufin_jax.serving.service import Service

TOKEN = "a token of 26 characters"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
A = {"items": [{"title": "a"}]}


class FakePredictor:
    """Answers each item with its title, its number of pictures and what it excludes."""

    def __init__(self, dataset):
        self.dataset, self.config = dataset, PredictConfig(shortlist=20)
        self.catalogue, self.calls = Catalogue.of(dataset.labels, 2), []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def predict(self, items, k, *, within=None, explain=False):
        self.entered.set()
        assert self.gate.wait(10)
        if any(item.titles == ["unseen"] for item in items):
            raise InputError("item 0: nothing to see")
        if any(item.titles == ["a bug"] for item in items):
            raise RuntimeError("a secret")
        why = Explanation({"c": PartOfScore(1.0, 0.5)}, ((1.0,),)) if explain else None
        return [
            [
                Prediction(
                    i, f"{item.titles[0]}{i}", f"{len(item.pictures)} {item.exclude}", i + 0.0, why
                )
                for i in range(k)
            ]
            for item in items
        ]

    def encode(self, items):
        return np.array([[len(item.titles[0]), 0.5] for item in items], np.float32)

    def add_labels(self, items):
        self.calls.append(("add", [item["id"] for item in items], len(items[0]["images"])))

    def update_labels(self, items):
        self.calls.append(("update", [item["id"] for item in items]))

    def remove_labels(self, ids):
        self.calls.append(("remove", ids))

    def roll_back(self):
        raise Held("another process writes")


@pytest.fixture
def predictor(dataset):
    return FakePredictor(dataset)


@pytest.fixture
def lines():
    return []


def serving(predictor, lines, token=TOKEN, **limits):
    service = Service(ServeConfig(**limits), "shop", token)
    if predictor is not None:
        service.open(predictor, "digest")
    app = Edge(build_app(service), service.metrics, service.config.body, lines.append)
    return TestClient(app, raise_server_exceptions=False), service


@pytest.fixture
def client(predictor, lines):
    client, service = serving(predictor, lines)
    with client:
        yield client
    predictor.gate.set()
    assert service.close(10.0)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 0, 0)).save(file, "PNG")
    return file.getvalue()


def refused(answer, code, kind, words=""):
    body = answer.json()
    assert (answer.status_code, body["error_type"]) == (code, kind), body
    assert set(body) == {"error", "error_type", "message"}
    assert words in body["message"]


def test_labels_of_items_come_with_the_version_of_the_catalogue(client):
    body = {"items": [{"title": "a"}, {"title": "b"}], "k": 2, "exclude": ["x"]}
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "shop",
        "version": 0,
        "answers": [
            {"labels": [{"id": f"{t}{i}", "title": "0 ('x',)", "score": i} for i in range(2)]}
            for t in "ab"
        ],
    }


def test_an_explained_answer_has_the_parts_of_the_score(client):
    answer = client.post("/v1/predict", json=A | {"explain": True, "k": 1}).json()
    (label,) = answer["answers"][0]["labels"]
    assert label["parts"] == {"c": {"value": 1.0, "weight": 0.5}} and label["attention"] == [[1.0]]


def test_pictures_come_as_data_uris_or_as_files(client):
    uri = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    body = {"items": [{"title": "a", "images": [uri]}, {"title": "b"}], "k": 1}
    files = [("images[1]", picture()), ("images[1]", picture()), ("images", picture())]
    answer = client.post("/v1/predict", data={"request": json.dumps(body)}, files=files)
    found = [one["labels"][0]["title"] for one in answer.json()["answers"]]
    assert found == ["2 ()", "2 ()"]


def test_vectors_come_as_lists_and_in_the_form_of_openai(client):
    assert client.post("/v1/embed", json=A).json() == {"model": "shop", "vectors": [[1.0, 0.5]]}
    body = {"input": ["aa", "b"], "model": "any", "user": "ignored"}
    plain = client.post("/v1/embeddings", json=body).json()
    assert [one["embedding"] for one in plain["data"]] == [[2.0, 0.5], [1.0, 0.5]]
    packed = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    content = base64.b64decode(packed["data"][0]["embedding"])
    np.testing.assert_array_equal(np.frombuffer(content, "<f4"), [2.0, 0.5])
    assert plain["object"] == "list" and plain["data"][1]["index"] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "items: Field required"),
        ({"items": []}, "items: List should have at least 1"),
        (A | {"K": 3}, "K: Extra inputs are not permitted"),
        (A | {"k": 0}, "k: "),
        (A | {"k": 21}, "expected a whole number from 1 to"),
        (A | {"k": "3"}, "k: "),
        ({"items": [{"titel": "a"}]}, "items.0.titel: "),
        ({"items": [{"title": "a"}] * 33}, "33 items; expected at most 32"),
        ({"items": [{"title": "a", "images": ["x"] * 17}]}, "17 pictures; expected at most 16"),
        ({"items": [{"title": "a", "images": ["/etc/passwd"]}]}, "expected a data URI"),
        ({"items": [{"title": "a", "images": ["https://a.b/c"]}]}, "fetches no pictures"),
        ({"items": [{"title": "unseen"}]}, "nothing to see"),
    ],
)
def test_a_request_of_another_form_is_refused_in_a_line(client, body, words):
    refused(client.post("/v1/predict", json=body), 422, "invalid_request", words)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 5000])
def test_what_is_no_json_object_is_refused(client, content):
    refused(client.post("/v1/predict", content=content), 422, "invalid_request")


def test_a_form_without_a_request_or_with_files_of_no_item_is_refused(client):
    files = [("images[1]", picture())]
    refused(client.post("/v1/predict", files=files), 422, "invalid_request", "no request")
    form = {"request": json.dumps(A)}
    refused(client.post("/v1/predict", data=form, files=files), 422, "invalid_request", "item 1")
    other = [("else", picture())]
    refused(client.post("/v1/predict", data=form, files=other), 422, "invalid_request", "'else'")
    refused(client.post("/v1/predict", data=form), 415, "http")


def test_a_body_that_is_too_large_is_refused_while_it_comes(predictor, lines):
    client, service = serving(predictor, lines, body=2048)
    taken = []

    def pieces():
        for i in range(100):
            taken.append(i)
            yield b" " * 1024

    with client:
        refused(client.post("/v1/predict", content=pieces()), 413, "too_large")
        refused(client.post("/v1/predict", content=b" " * 4096), 413, "too_large")
    assert service.close(10.0)


def test_a_bug_is_told_to_nobody(client):
    answer = client.post("/v1/predict", json={"items": [{"title": "a bug"}]})
    refused(answer, 500, "internal")
    assert "secret" not in answer.text
    assert client.post("/v1/predict", json=A).status_code == 200


def test_while_the_model_is_loaded_requests_are_refused_and_the_process_is_alive(lines):
    client, _ = serving(None, lines)
    with client:
        refused(client.post("/v1/predict", json=A), 503, "unavailable", "being loaded")
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503


def test_a_draining_server_is_not_ready_and_answers_still(predictor, lines):
    client, service = serving(predictor, lines)
    with client:
        assert client.get("/readyz").status_code == 200
        service.draining = True
        assert client.get("/readyz").status_code == client.get("/health").status_code == 503
        assert client.get("/livez").status_code == 200
        assert client.post("/v1/predict", json=A).status_code == 200
    assert service.close(10.0)


def test_a_full_queue_is_429_with_the_time_to_come_back_and_changes_no_probe(predictor, lines):
    client, service = serving(predictor, lines, queue=1, items=1)
    predictor.gate.clear()
    with client:
        threads = [
            threading.Thread(target=client.post, args=("/v1/predict",), kwargs={"json": A})
            for _ in range(2)
        ]
        threads[0].start()
        assert predictor.entered.wait(10)
        threads[1].start()
        while service.waiting < 1:
            time.sleep(0.01)
        answer = client.post("/v1/predict", json=A)
        refused(answer, 429, "busy")
        assert int(answer.headers["Retry-After"]) >= 1
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
        assert b'mufin_rejected_total{reason="busy"} 1.0' in service.metrics.text()
        predictor.gate.set()
        for thread in threads:
            thread.join(10)
    assert service.close(10.0)


def test_an_answer_that_comes_too_late_is_504(predictor, lines):
    client, service = serving(predictor, lines, deadline=0.2)
    predictor.gate.clear()
    with client:
        refused(client.post("/v1/predict", json=A), 504, "deadline")
        predictor.gate.set()
    assert service.close(10.0)


def test_labels_change_with_the_token_alone(client, predictor):
    uid = predictor.dataset.labels.ids[3]
    item = {"id": "new", "title": "t", "related": ["train1"]}
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Bearer é".encode()}):
        refused(client.post("/v1/labels", json={"items": [item]}, headers=headers), 401, "http")
        refused(client.delete(f"/v1/labels/{uid}", headers=headers), 401, "http")
        refused(client.post("/v1/rollback", headers=headers), 401, "http")
    assert not predictor.calls
    added = client.post("/v1/labels", json={"items": [item]}, headers=ADMIN)
    assert added.json() == {"version": 0}
    client.post("/v1/labels", json={"items": [item], "update": True}, headers=ADMIN)
    assert client.delete(f"/v1/labels/{uid}", headers=ADMIN).status_code == 200
    assert predictor.calls == [("add", ["new"], 0), ("update", ["new"]), ("remove", [uid])]
    refused(client.delete("/v1/labels/none", headers=ADMIN), 404, "http")
    refused(client.post("/v1/rollback", headers=ADMIN), 409, "held", "another process")


def test_without_a_token_labels_cannot_be_changed(predictor, lines):
    client, service = serving(predictor, lines, token="")
    with client:
        for headers in ({}, {"Authorization": "Bearer "}, ADMIN):
            refused(client.delete("/v1/labels/x", headers=headers), 403, "http", "no admin token")
    assert service.close(10.0)


def test_a_label_and_the_model_can_be_looked_up(client, predictor):
    uid = predictor.dataset.labels.ids[3]
    found = client.get(f"/v1/labels/{uid}").json()
    assert found["id"] == uid and found["recommended"] and found["version"] == 0
    refused(client.get("/v1/labels/none"), 404, "http")
    (model,) = client.get("/v1/models").json()["data"]
    assert model["digest"] == "digest" and model["labels"] == len(predictor.dataset.labels.ids)


def test_every_answer_has_the_headers_of_security_and_no_other_origin_is_allowed(client):
    for path in ("/v1/models", "/nothing", "/docs"):
        answer = client.get(path, headers={"Origin": "https://evil.example"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in answer.headers


def test_metrics_and_the_log_have_routes_and_no_secrets(client, lines):
    client.post("/v1/predict", json=A)
    client.delete("/v1/labels/secret-id?token=secret", headers=ADMIN)
    client.get("/secret-path")
    text = client.get("/metrics").text
    assert 'mufin_requests_total{code="200",route="/v1/predict"} 1.0' in text
    assert 'mufin_model_info{digest="digest",version="0"} 1.0' in text
    assert "mufin_batch_items_bucket" in text
    assert json.loads(lines[0]) | {"route": "/v1/predict", "code": 200} == json.loads(lines[0])
    assert "secret" not in text + "".join(lines) and TOKEN not in text + "".join(lines)


def test_the_description_names_all_routes_and_bodies(client):
    found = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/embed", "/v1/embeddings", "/v1/labels", "/v1/models"} <= set(
        found["paths"]
    )
    text = json.dumps(found)
    for name in set(_references(text)):
        assert name in found["components"]["schemas"]


def _references(text):
    return [part.split('"')[0] for part in text.split("#/components/schemas/")[1:]]
