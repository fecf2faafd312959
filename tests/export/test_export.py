"""The export of a run: it answers as the run does, anywhere, and is whole or absent."""

import dataclasses
import datetime
import errno
import json
import os
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest
from huggingface_hub import ModelCard, RepoUrl
from huggingface_hub.errors import LocalTokenNotFoundError
from minute import environment
from safetensors.numpy import load_file, save_file

from mufin_jax.commands.app import main
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.kept_fields import FILE, KeptFields
from mufin_jax.encoders import rows
from mufin_jax.export import folder as folder_file
from mufin_jax.export import programs as programs_file
from mufin_jax.export.folder import check_export, export_run
from mufin_jax.export.prepared import save_prepared
from mufin_jax.export.program_check import check_programs, load_programs
from mufin_jax.prediction.living import load_kept_fields
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import DiskError, InputError
from mufin_jax.runtime.storage.files import load_sealed


@pytest.fixture(scope="module")
def run(minute_run):
    """A predictor of the run, which tests may change in memory."""
    return Predictor.load(minute_run)


@pytest.fixture(scope="module")
def exported(minute_run, tmp_path_factory):
    """An export that was moved after it was made; do not change it."""
    made = export_run(minute_run, tmp_path_factory.mktemp("made") / "export")
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.move(made, moved)
    return moved


@pytest.fixture(scope="module")
def alone(exported):
    """The predictor of the export."""
    return Predictor.load(exported)


def items_of(run, count=12):
    """Items with titles and pictures, half of them with ids."""
    test = run.dataset.test
    return [
        {"title": test.titles[i], "images": list(run.dataset.images[test.images_of(i)])}
        | ({"id": test.ids[i]} if i % 2 else {})
        for i in range(count)
    ]


def test_an_export_answers_as_its_run_does_to_the_bit(run, alone):
    items = items_of(run)
    assert alone.predict(items, 10) == run.predict(items, 10)
    np.testing.assert_array_equal(alone.encode(items), run.encode(items))
    ids = list(run.dataset.labels.ids)
    narrow = {"exclude": ids[:5], "within": ids[:15], "explain": True}
    for ours, theirs in zip(
        alone.predict(items, **narrow), run.predict(items, **narrow), strict=True
    ):
        assert [(one.id, one.score, one.why.parts) for one in ours] == [
            (one.id, one.score, one.why.parts) for one in theirs
        ]


def test_labels_come_and_go_in_an_export_as_in_its_run(run, alone):
    new = [
        one | {"id": f"new{i}", "related": [run.dataset.train.ids[i]]}
        for i, one in enumerate(items_of(run, 4))
    ]
    for predictor in (run, alone):
        predictor.add_labels(new, save=False)
        predictor.remove_labels([run.dataset.labels.ids[2]], save=False)
    items = items_of(run)
    try:
        assert alone.predict(items, 20) == run.predict(items, 20)
        assert any(one.id.startswith("new") for own in alone.predict(items, 20) for one in own)
        assert alone.catalogue.added.points.tolist() == run.catalogue.added.points.tolist()
    finally:
        for predictor in (run, alone):
            predictor.change_to(predictor.catalogue.changed(type(run.catalogue.changes).none(8)))


@pytest.mark.slow
@pytest.mark.rotates("exports", every=3)
def test_an_export_has_the_current_version_of_the_catalogue(minute_run, run, tmp_path):
    changed = tmp_path / "run"
    shutil.copytree(minute_run, changed)
    other = Predictor.load(changed)
    other.add_labels([one | {"id": f"new{i}"} for i, one in enumerate(items_of(run, 3))])
    other.remove_labels([run.dataset.labels.ids[0]])
    loaded = Predictor.load(export_run(changed, tmp_path / "to"))
    assert loaded.catalogue.version == other.catalogue.version == 2
    items = items_of(run)
    assert loaded.predict(items, 20) == other.predict(items, 20)
    vectors = np.load(tmp_path / "to" / "labels" / "vectors.npy")
    ids = (tmp_path / "to" / "labels" / "ids.txt").read_text().splitlines()
    assert ids == [*list(run.dataset.labels.ids)[1:], "new0", "new1", "new2"]
    np.testing.assert_allclose(vectors[-3:], other.encode(items_of(run, 3)), atol=1e-6)
    other.remove_labels(["new1"])  # versions go on from the one that was exported
    loaded.remove_labels(["new1"])
    assert loaded.predict(items, 20) == other.predict(items, 20)


def test_label_vectors_are_those_of_the_labels_in_the_order_of_the_ids(run, exported):
    labels = run.dataset.labels
    vectors = np.load(exported / "labels" / "vectors.npy")
    assert vectors.dtype == np.float32 and vectors.shape == (len(labels), run.model.dim)
    assert (exported / "labels" / "ids.txt").read_text().splitlines() == list(labels.ids)
    shown = [
        {"title": labels.titles[i], "images": list(run.dataset.images[labels.images_of(i)])}
        for i in range(12)
    ]
    np.testing.assert_allclose(vectors[:12], run.encode(shown), atol=1e-6)
    table = pyarrow.parquet.read_table(exported / "labels" / "labels.parquet")
    assert table.column("id").to_pylist() == list(labels.ids)
    assert table.column("title").to_pylist() == list(labels.titles)
    np.testing.assert_array_equal(np.array(table.column("vector").to_pylist(), np.float32), vectors)


def test_an_export_holds_no_content_of_the_data_and_no_path_of_the_machine(minute_run, exported):
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*")}
    assert not any(name.startswith("prepare/records/") or "checkpoints" in name for name in names)
    for name in ("images.npy", "texts.npy"):
        assert len(np.load(exported / "prepare" / name)) == 0
    places = [str(minute_run).encode(), str(exported.parent.parent).encode()]
    for path in exported.rglob("*"):
        if path.is_file() and path.parts[len(exported.parts)] != "compiled":
            assert not any(place in path.read_bytes() for place in places), path


def test_a_known_id_alone_is_told_in_one_line(run, alone):
    with pytest.raises(InputError, match=r"item 0: an export has no titles and pictures of .*"):
        alone.predict([run.dataset.labels.ids[0]])


def test_a_check_finds_a_changed_byte(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    assert re.fullmatch(r"[2-9]\d files, all as they were exported", check_export(copy))
    victim = copy / "finetune" / "predictor" / "labels" / "w.npy"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    with pytest.raises(InputError, match=r"w\.npy is damaged .*; export the run again"):
        check_export(copy)
    with pytest.raises(InputError, match="no export there"):
        check_export(tmp_path)


def test_an_export_replaces_an_export_by_force_alone(
    minute_run, run, exported, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(folder_file.Predictor, "load", lambda _: run)
    to = tmp_path / "to"
    shutil.copytree(exported, to)
    (to / "mine").touch()
    assert main(["export", str(minute_run), f"--to={to}"], {}) == 2
    assert "is an export already; --force replaces it" in capsys.readouterr().err
    assert main(["export", str(minute_run), f"--to={to}", "--force"], {}) == 0
    assert not (to / "mine").exists() and os.listdir(tmp_path) == ["to"]
    assert main(["export", str(to), "--check"], {}) == 0
    assert capsys.readouterr().out.endswith("all as they were exported\n")


@pytest.mark.parametrize(
    ("run_name", "to", "words"),
    [
        ("run", "run/export", "lies inside of the run"),
        ("run", "full", "is not empty, and no export"),
        ("run", "file", "is a file"),
        ("run", "file/to", "cannot be made (Not a directory)"),
        ("empty", "to", "no trained model there"),
        ("nowhere", "to", "no such folder"),
        ("run", None, "expected the folder of the export"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(
    minute_run, run, tmp_path, monkeypatch, capsys, run_name, to, words
):
    monkeypatch.setattr(folder_file.Predictor, "load", lambda _: run)
    (tmp_path / "run").symlink_to(minute_run)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    target = [] if to is None else [f"--to={tmp_path / to}"]
    assert main(["export", str(tmp_path / run_name), *target], {}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("place", ["folder.save_label_vectors", "answers.shutil.copyfile"])
def test_a_full_disk_leaves_nothing_of_an_export(minute_run, run, tmp_path, monkeypatch, place):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"mufin_jax.export.{place}", full)
    monkeypatch.setattr(folder_file.Predictor, "load", lambda _: run)
    with pytest.raises(DiskError, match="make room or choose another --to"):
        export_run(minute_run, tmp_path / "to")
    assert not list(tmp_path.iterdir())


def test_the_card_has_the_metrics_of_the_run_and_what_the_hub_requires(minute_run, exported):
    card = ModelCard.load(exported / "README.md")
    assert card.data["library_name"] == "mufin_jax" and card.data.base_model is None
    metrics = json.loads((minute_run / "metrics.json").read_text())
    found = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert found["P@1"] == metrics["P@1"] and found["R@10"] == metrics["R@10"]
    for words in ("popularity", "ceiling", "30 labels", "minute, 0"):
        assert words in card.text
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    compile(code, "card", "exec")


class Hub:
    """Stands for the hub: it copies what is uploaded, or fails."""

    def __init__(self, folder, error=None):
        self.folder, self.error, self.private = folder, error, None

    def create_repo(self, name, private, exist_ok):
        if self.error:
            raise self.error
        self.private = private
        return RepoUrl(f"https://huggingface.co/{name}")

    def upload_folder(self, repo_id, folder_path, commit_message, ignore_patterns):
        copied = shutil.ignore_patterns(*(one.removesuffix("/*") for one in ignore_patterns))
        shutil.copytree(folder_path, self.folder / repo_id, ignore=copied)


def test_an_export_is_pushed_to_the_hub_and_answers_from_there(
    exported, tmp_path, monkeypatch, capsys
):
    hub = Hub(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    assert main(["export", str(exported), "--push-to-hub=me/shop"], {}) == 0
    assert "https://huggingface.co/me/shop has the export" in capsys.readouterr().out
    assert hub.private and check_export(tmp_path / "me" / "shop") == check_export(exported)


def test_what_the_hub_refuses_is_one_line_without_the_token(
    exported, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    error = LocalTokenNotFoundError("401\nfor hf_secret")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(tmp_path, error))
    assert main(["export", str(exported), "--push-to-hub=me/shop"], {}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "hf auth login" in line and "hf_secret" not in line and "is complete" in line
    assert main(["export", str(exported), "--push-to-hub=shop"], {}) == 2
    assert "expected USER/NAME" in capsys.readouterr().err


@pytest.mark.slow
def test_transformers_loads_the_encoders_of_an_export_with_their_tokenizer(
    minute_run, run, tmp_path
):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = export_run(minute_run, tmp_path / "to", encoders=True) / "encoders"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "text")
    model = transformers.AutoModel.from_pretrained(folder / "text").eval()
    titles = ["oak shelf", "", "a lamp that has a title of far too many words for the model"]
    given = tokenizer(titles, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model(given["input_ids"], given["attention_mask"]).last_hidden_state
    mask = given["attention_mask"][..., None]
    found = (states * mask).sum(1) / mask.sum(1)
    tokens, lengths = run.dataset.tokenizer.encode(titles, run.dataset.texts.shape[1])
    tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
    ours = run.model.text_encoder.packed(tokens, rows.alone(tokens, lengths), 1)[:, 0]
    np.testing.assert_allclose(ours, found.numpy(), atol=1e-5)
    assert transformers.AutoModel.from_pretrained(folder / "image").config.hidden_size == 16
    assert transformers.AutoImageProcessor.from_pretrained(folder / "image").size["height"] == 16


def test_programs_need_flatbuffers(minute_run, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder_file.Predictor, "load", lambda _: run)
    monkeypatch.setattr(programs_file, "has_flatbuffers", lambda: False)
    assert main(["export", str(minute_run), f"--to={tmp_path / 'to'}", "--programs"], {}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == "error: --programs: programs need the package flatbuffers: pip install flatbuffers"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_programs_of_an_export_compute_what_its_predictor_computes(
    minute_run, tmp_path, compiled
):
    pytest.importorskip("flatbuffers")
    folder = tmp_path / "to"
    # In a process of its own: the tests' checks of shapes know no symbolic sizes.
    command = [sys.executable, "-m", "mufin_jax", "export", minute_run, f"--to={folder}"]
    subprocess.run([*command, "--programs"], check=True, env=environment(compiled))
    told = check_export(folder)
    assert float(re.findall(r"differ from the predictor by (\S+) at most", told)[0]) <= 1e-5
    facts = load_sealed(folder / "programs" / "programs.json")
    assert list(facts["programs"]) == ["text", "image", "embed", "score"]
    made, again = (datetime.date.fromisoformat(facts[n]) for n in ("made", "export_again_by"))
    assert again - made == datetime.timedelta(days=180)
    calls = load_programs(folder / "programs")
    for items in (1, 5):  # any number of items, of descriptors and of labels
        x0, mask = np.ones((items, items + 1, 8), np.float32), np.ones((items, items + 1), bool)
        assert calls["embed"]({"x0": x0, "mask": mask})["vector"].shape == (items, 8)
    weights = load_file(folder / "programs" / "weights.safetensors")
    weights["self_attention.norm.scale"] += 1
    save_file(weights, folder / "programs" / "weights.safetensors")
    cache = folder / "finetune" / "predictor" / "labels"
    with pytest.raises(InputError, match="the programs differ from the predictor by"):
        check_programs(folder / "programs", cache, Predictor.load(folder))


def test_fields_that_are_kept_for_filters_are_exported(run, tmp_path):
    dataset = run.dataset
    kept = KeptFields.build(["price"], [(float(i),) for i in range(dataset.num_labels)])
    for name in ("train_ids.npz", "label_ids.npz", "label_titles.npz", "tokenizer.json"):
        shutil.copyfile(dataset.path / name, tmp_path / name)
    kept.save(tmp_path / FILE)
    files = dataset.manifest["files"] | {FILE: {}}
    given = dataclasses.replace(
        dataset, path=tmp_path, manifest=dataset.manifest | {"files": files}
    )
    save_prepared(given, tmp_path / "out", pairs=False)
    found = load_kept_fields(Dataset.load(tmp_path / "out", to_answer=True))
    np.testing.assert_array_equal(found.fields["price"].values, kept.fields["price"].values)
