"""`import mufin_jax as mufin`: it imports no JAX, and the examples of the pages run."""

import ast
import io
import re
import resource
import shutil
import statistics
import subprocess
import sys

import minute
import numpy as np
import pytest
from PIL import Image
from places import ROOT, SUPPORT

import mufin_jax as mufin
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.storage.files import load_json


def test_importing_the_package_imports_no_jax():
    heavy = "{'jax', 'jaxlib', 'flax', 'numpy', 'scipy', 'PIL', 'tensorflow', 'torch'}"
    code = f"import sys, mufin_jax; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_importing_the_package_takes_less_than_half_a_second_of_cpu_time():
    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    def seconds(code: str) -> float:
        before = used()
        subprocess.run([sys.executable, "-c", code], check=True)
        return used() - before

    imported = statistics.median(seconds("import mufin_jax") for _ in range(3))
    assert imported - statistics.median(seconds("pass") for _ in range(3)) < 0.5


def test_loading_a_dataset_imports_no_jax(minute_run):
    code = "import sys, mufin_jax; mufin_jax.Dataset.load(sys.argv[1]); print('jax' in sys.modules)"
    command = [sys.executable, "-c", code, str(minute_run / "prepare")]
    assert subprocess.check_output(command, text=True) == "False\n"


@pytest.mark.parametrize("name", mufin.__all__)
def test_every_public_name_exists_and_has_a_docstring(name):
    assert getattr(mufin, name).__doc__
    assert name in dir(mufin)


def test_an_unknown_name_raises_an_attribute_error():
    with pytest.raises(AttributeError, match="'mufin_jax' has no attribute 'Datset'"):
        _ = mufin.Datset  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def predictor(minute_run):
    import jax

    return mufin.Predictor.load(minute_run, make_mesh(jax.devices()[:1]))


def test_a_loaded_predictor_has_the_metrics_of_its_run(minute_run, predictor):
    dataset = mufin.Dataset.load(minute_run / "prepare")
    found, wanted = mufin.evaluate(predictor, dataset), load_json(minute_run / "metrics.json")
    assert {"P@1", "nDCG@5", "PSP@5", "R@100", "AUC"} <= found.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, err_msg=name)


def test_a_predictor_ranks_labels_for_new_titles_and_pictures(minute_run, predictor, tmp_path):
    dataset = mufin.Dataset.load(minute_run / "prepare")
    red = Image.new("RGB", (40, 30), "red")
    red.save(tmp_path / "shelf.jpg")
    encoded = io.BytesIO()
    red.save(encoded, "PNG")
    items = [
        {"title": "wall shelf", "images": [str(tmp_path / "shelf.jpg")]},
        {"title": "wall shelf"},
        {"images": [tmp_path / "shelf.jpg", red, encoded.getvalue()]},
    ]
    answers = predictor.predict(items, k=5)
    assert [len(answer) for answer in answers] == [5, 5, 5]
    for answer in answers:
        scores = [one.score for one in answer]
        assert scores == sorted(scores, reverse=True) and np.isfinite(scores).all()
        for one in answer:
            assert one.id == dataset.labels.ids[one.label]
            assert one.title == dataset.labels.titles[one.label]
    assert len({one.label for one in answers[0]}) == 5
    assert [one.label for one in answers[0]] != [one.label for one in answers[2]] or (
        answers[0][0].score != answers[2][0].score
    )


def test_a_prediction_does_not_depend_on_the_other_items(predictor):
    items = [{"title": f"lamp {i}"} for i in range(5)]
    together = predictor.predict(items, k=3)
    for item, answer in zip(items, together, strict=True):
        (alone,) = predictor.predict([item], k=3)
        assert [one.label for one in alone] == [one.label for one in answer]
        np.testing.assert_allclose(
            [one.score for one in alone], [one.score for one in answer], atol=1e-5
        )


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "item 0: nothing to see; expected a title, titles or images"),
        ({"title": "  "}, "item 0: nothing to see"),
        ({"titel": "lamp"}, "item 0: unknown field 'titel'; expected id, title, titles, images"),
        ({"images": [b"GIF89a"]}, "not a JPEG, PNG or WebP picture"),
        ({"images": ["/no/such.jpg"]}, "/no/such.jpg"),
    ],
)
def test_the_error_names_an_item_that_cannot_be_read(predictor, item, message):
    from mufin_jax.runtime.errors import InputError

    with pytest.raises(InputError, match=message):
        predictor.predict([item])


def test_loading_a_folder_without_a_model_reports_how_to_train_one(tmp_path):
    from mufin_jax.runtime.errors import InputError

    with pytest.raises(InputError, match="no trained model there; run the stages up to finetune"):
        mufin.Predictor.load(tmp_path)


def test_the_python_examples_of_the_readme_and_the_recipes_run(minute_run, compiled, tmp_path):
    pages = [(ROOT / name).read_text("utf-8") for name in ("docs/recipes.md", "README.md")]
    blocks = [re.findall(r"```python\n(.*?)```", page, re.DOTALL) for page in pages]
    assert [len(found) for found in blocks] == [1, 1]
    (trains,), (predicts,) = blocks
    code = trains.replace(
        "experiments.amazon import MINIATURE", "minute import MINUTE as MINIATURE"
    )
    shutil.copytree(minute_run, tmp_path / "runs" / "demo")
    (tmp_path / "runs" / "amazon-miniature").symlink_to("demo")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "shelf.jpg")
    process = subprocess.run(
        [sys.executable, "-c", code + predicts], cwd=tmp_path, capture_output=True, text=True,
        env=minute.environment(compiled) | {"PYTHONPATH": str(SUPPORT)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    measured, *rankings = process.stdout.splitlines()
    expected = load_json(minute_run / "metrics.json")["P@1"]
    assert measured == f"30 {expected}"
    assert [len(ast.literal_eval(ranking)) for ranking in rankings] == [5, 5]
