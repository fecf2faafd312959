"""`mufin labels`: products of a file become labels, and bad ones change nothing."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mufin_jax.commands import labels
from mufin_jax.commands.app import main
from mufin_jax.data.kept_fields import KeptFields
from mufin_jax.data.strings import Strings
from mufin_jax.prediction.catalogue import Catalogue, Names
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.prediction.segment import Changes, Segment

NAMES = Strings.pack(["a", "b", "c"])


class FakePredictor(Predictor):
    """Remembers what it is asked to change."""

    catalogue = Catalogue(Names(NAMES, NAMES), Changes.none(4))

    def __init__(self, columns):
        self.calls = []
        self.dataset = SimpleNamespace(manifest={"config": {"columns": list(columns)}})
        for name in ("add_labels", "update_labels", "remove_labels", "roll_back", "keep_fields"):
            setattr(self, name, lambda *given, name=name: self.calls.append((name, *given)) or 1)


@pytest.fixture
def predictor(monkeypatch):
    fake = FakePredictor(["related=goes_with"])
    monkeypatch.setattr(labels.Predictor, "load", lambda run: fake)
    return fake


def call(*arguments):
    return main(["labels", *map(str, arguments)], {})


def test_products_of_a_file_are_added_with_what_they_bring(predictor, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
    rows = [
        {"id": "n1", "title": "oak shelf", "images": ["x.jpg"], "goes_with": ["a", "q"]},
        {"id": 7, "title": "lamp"},
    ]
    file = tmp_path / "new.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert call("RUN", "add", file) == 0
    ((name, items),) = predictor.calls
    assert name == "add_labels"
    assert [(one.id, one.titles, list(one.related)) for one in items] == [
        ("n1", ["oak shelf"], ["a", "q"]), ("7", ["lamp"], []),
    ]  # fmt: skip
    assert items[0].pictures == [(tmp_path / "x.jpg").resolve()] and not items[1].pictures
    assert capsys.readouterr().out == (
        "3 labels: 3 of training, 0 of them removed; 0 added (as it was trained)\n"
    )


def test_each_action_makes_its_call(predictor, tmp_path):
    (tmp_path / "ids.txt").write_text("a\nb\n")
    (tmp_path / "new.csv").write_text("sku,title\nn1,lamp\n")
    assert call("RUN") == 0 and not predictor.calls
    assert call("RUN", "remove", tmp_path / "ids.txt") == 0
    assert call("RUN", "update", tmp_path / "new.csv", "--columns", "id=sku") == 0
    assert call("RUN", "rollback") == 0
    assert [one[0] for one in predictor.calls] == ["remove_labels", "update_labels", "roll_back"]
    assert list(predictor.calls[0][1]) == ["a", "b"] and predictor.calls[1][1][0].id == "n1"


def test_fields_of_a_file_are_kept_and_rows_without_an_id_are_counted(predictor, tmp_path, capsys):
    file = tmp_path / "new.csv"
    file.write_text("sku,title,kind,price\na,x,oak|steel,$5\n,y,z,3\nb,,,\nq,x,y,1\na,again,,\n")
    arguments = ("RUN", "keep", file, "--columns", "id=sku", "--fields", "kind", "price:number")
    assert call(*arguments) == 0
    ((name, rows, fields),) = predictor.calls
    assert name == "keep_fields" and fields == ("kind", "price:number")
    assert rows == [
        {"id": "a", "kind": ("oak", "steel"), "price": ("$5",)},
        {"id": "b", "kind": None, "price": None},
    ]
    out = capsys.readouterr().out
    assert "2 of 3 products are labels\n2 rows without an id of their own" in out


def test_the_fields_that_are_kept_are_shown(predictor, capsys):
    kept = KeptFields.build(["kind", "price"], [(("oak",), 3.0), (None, 1.0), (None, 2.0)])
    predictor.catalogue = Catalogue(Names(NAMES, NAMES, kept), Changes.none(4))
    assert call("RUN") == 0
    shown = "fields for filters: kind (text, 1 labels), price (number, 3 labels)\n"
    assert capsys.readouterr().out.endswith(shown)


@pytest.mark.parametrize(
    "action, content, said",
    [
        ("add", '{"id": "n1", "title": 3}\n', "new.jsonl:1: expected `title` to be a string"),
        (
            "add",
            '{"id": "n1", "title": "a", "images": ["no.jpg"]}\n',
            "file; nothing is changed",
        ),
        ("add", '{"id": "n1", "title": "a", "images": ["../x.jpg"]}\n', "leads out of the data f"),
        ("add", "\n", "is empty: expected products"),
        ("update", None, "new.jsonl: no such file"),
        ("rollback", "a\n", "rollback reads no file"),
        ("keep", '{"id": "a", "kind": "oak"}\n', "both keep and --fields are needed"),
        ("keep --fields=kind", '{"id": "q", "kind": "oak"}\n', "none of 1 ids is a label's; the "),
        ("keep --fields=size", '{"id": "a", "kind": "oak"}\n', "no row has the field 'size'; foun"),
    ],
)
def test_a_bad_file_changes_nothing_and_is_told(predictor, tmp_path, capsys, action, content, said):
    if content is not None:
        (tmp_path / "new.jsonl").write_text(content)
    action, *more = action.split()
    assert call("RUN", action, tmp_path / "new.jsonl", *more) == 2
    assert said in capsys.readouterr().err and not predictor.calls


def test_an_action_needs_its_file_and_must_be_known(predictor, capsys):
    assert call("RUN", "add") == 2
    assert "expected a file of products" in capsys.readouterr().err
    for wrong, meant in (("delete", "remove"), ("Udpate", "update"), ("undo", "rollback")):
        assert call("RUN", wrong, "x.txt") == 2
        said = capsys.readouterr().err
        assert f"found the action '{wrong}'; expected show, add" in said
        assert f"did you mean {meant}?" in said
    assert call("RUN", "xyzzy") == 2
    assert capsys.readouterr().err.endswith("keep, rollback\n")


def test_the_labels_that_are_left_are_counted():
    one, none = np.zeros((1, 4), np.float32), np.zeros(0, np.int64)
    new = Segment(
        Strings.pack(["n"]),
        Strings.pack(["new"]),
        one,
        np.arange(2),
        one,
        none,
        np.zeros(2, np.int64),
    )
    changes = Changes(new, np.array([0, 2], np.int32))
    assert labels.summary(Catalogue(Names(NAMES, NAMES), changes, 4)) == (
        "2 labels: 3 of training, 2 of them removed; 1 added (version 4)"
    )
