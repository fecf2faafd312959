"""A joint model: an item is one descriptor, of its title and pictures together, in every stage."""

import dataclasses
import io
import shutil
import time

import jax
import jax.numpy as jnp
import minute
import numpy as np
import pytest
import small
from PIL import Image
from places import GOLDEN
from small import CONFIG, SIZES, pictures, title

from experiments import amazon
from mufin_jax.data.loader import Loader
from mufin_jax.data.record_images import ArrayImages
from mufin_jax.data.sources import Pixels
from mufin_jax.encoders.pretrained import load_text_encoder
from mufin_jax.encoders.visual_bert import VisualBertConfig
from mufin_jax.model import label_table
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.embed_side import describe_once, embed_blocks
from mufin_jax.model.pooling import pool_maximum, unit
from mufin_jax.model.saved import load_model, new_model, save_model
from mufin_jax.pipeline.cli import parse
from mufin_jax.prediction.build import build_predictor
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.training import finetune_batches, frozen_features, pretrain_batches
from mufin_jax.training.frozen_features import precompute, use_precomputed
from mufin_jax.training.optimizer import OptimizerConfig

TEXT = VisualBertConfig(width=18, depth=2, heads=2, mlp=10, max_positions=16)
JOINT = dataclasses.replace(CONFIG, modalities="joint", self_attention="none", text=TEXT)
ITEMS = sum(SIZES.values())


@pytest.fixture(scope="module")
def model(dataset, mesh):
    return small.new_model(dataset, mesh, JOINT)


@pytest.fixture(scope="module")
def wanted(dataset, model):
    """The reduced vector of each item of train, test and labels, computed one at a time."""
    encode = jax.jit(lambda encoder, *item: encoder(*item))
    see = jax.jit(lambda model, images: model.see(images))
    tokenizer, found = dataset.tokenizer, []
    for side in (dataset.train, dataset.test, dataset.labels):
        for row in range(len(side)):
            ids, lengths = tokenizer.encode([title(side.name, row)], 8)
            images = np.zeros((3, small.PIXELS, small.PIXELS, 3), np.uint8)
            shown = np.arange(3)[None] < len(pictures(side.name, row))
            images[shown[0]] = dataset.images[side.images_of(row)]
            vectors = see(model, Pixels(images))[None]
            real = np.arange(8)[None] < lengths[:, None]
            found.append(encode(model.text_encoder, ids, real, vectors, shown)[0])
    return pool_maximum(jnp.stack(found), 6)


def test_items_are_described_by_title_and_pictures_with_any_block_size(
    dataset, model, mesh, wanted, tmp_path
):
    assert len(wanted) == ITEMS and wanted.std(0).min() > 0.01
    for count, block in enumerate((512, 7)):
        loader = Loader(dataset, "joint", mesh)
        found = describe_once(model, loader, tmp_path / f"{count}.npy", block=block)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    ((rows, labels),) = embed_blocks(model, loader, found, dataset.labels, keep_bags=True)
    np.testing.assert_allclose(labels.vector, unit(wanted[-len(rows) :]), atol=1e-5)
    assert labels.bag.shape == (SIZES["label"], 1, 6) and labels.mask.all()


@pytest.mark.parametrize("mesh_size", [1, 8])
def test_a_batch_holds_each_item_once_and_gives_its_place(dataset, model, mesh, wanted, mesh_size):
    loader = Loader(dataset, "joint", devices=mesh_size)
    rows = [np.array([3, 7, 3]), np.array([12, 0])]
    groups = [(dataset.train, rows[0]), (dataset.labels, rows[1])]
    pool, bags = loader.batch(groups)
    assert len(pool.texts.tokens) % mesh_size == 0 and len(pool.texts.tokens) == len(
        pool.texts.pictures
    )
    assert (pool.texts.pictures >= 0).sum() == sum(
        len(pictures(side.name, row)) for side, own in groups for row in np.unique(own)
    )
    vectors = jax.jit(lambda model, pool: model.describe(pool))(model, Loader(
        dataset, "joint", mesh).batch(groups)[0])  # fmt: skip
    (points, labels), start = bags, SIZES["train"] + SIZES["test"]
    vectors = np.asarray(vectors)
    np.testing.assert_allclose(vectors[points.slots[:, 0]], wanted[rows[0]], atol=1e-5)
    np.testing.assert_allclose(vectors[labels.slots[:, 0]], wanted[start + rows[1]], atol=1e-5)


def test_an_item_without_title_and_pictures_has_an_empty_bag(dataset):
    train = dataset.train
    bare = dataclasses.replace(train, text=np.where(np.arange(26) == 2, -1, train.text))
    assert not len(bare.images_of(2))
    loader = Loader(dataclasses.replace(dataset, train=bare), "joint")
    slots, mask = loader.slots(bare, np.arange(26))
    np.testing.assert_array_equal(mask[:, 0], np.arange(26) != 2)
    np.testing.assert_array_equal(slots[:, 0], np.where(mask[:, 0], np.arange(26), 0))


def test_labels_can_be_read_without_their_pictures(dataset):
    loader = Loader(dataset, "joint", label_images=False)
    pool, _ = loader.batch([(dataset.labels, np.arange(13))])
    assert (pool.texts.pictures < 0).all()
    pool, _ = loader.batch([(dataset.train, np.arange(13))])
    assert (pool.texts.pictures >= 0).any()


@pytest.mark.slow
def test_a_saved_joint_model_is_loaded_unchanged(dataset, one_device, tmp_path):
    model = new_model(JOINT, dataset, one_device, seed=0)
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model", one_device)
    assert again.config == model.config
    found = small.weights(again)
    for path, value in small.weights(model).items():
        np.testing.assert_array_equal(found[path], value, path)
    assert found["text_encoder/visual/kernel"].shape == (12, 18)  # E_V gives 12, not 2,048


FROZEN = OptimizerConfig(image_encoder="frozen", text_encoder="frozen")
KEPT = {
    "all frozen": (FROZEN, ["image", "text"]),
    "pictures frozen": (OptimizerConfig(image_encoder="frozen"), ["image"]),
    "texts frozen": (dataclasses.replace(FROZEN, image_encoder="last"), ["image-trunk"]),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_outputs_of_frozen_parts_give_the_same_descriptors(
    name, dataset, model, mesh, wanted, tmp_path, monkeypatch
):
    optimizer, files = KEPT[name]
    loader, kept = Loader(dataset, "joint", mesh), tmp_path / "kept"
    loader = precompute(model, loader, optimizer, kept, tmp_path / "decisions.json")
    assert sorted(path.name.rsplit("-", 1)[0] for path in kept.iterdir()) == files
    monkeypatch.setattr(frozen_features, "whole_npy", None)  # nothing is made again
    later = Loader(dataset, "joint", mesh)
    later = use_precomputed(model, later, kept)
    for number, one in enumerate((loader, later)):
        found = describe_once(model, one, tmp_path / f"{number}.npy")
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_pictures_whose_vectors_are_kept_are_not_encoded_again(dataset, model, mesh, tmp_path):
    kept = tmp_path / "kept"

    class Watched(ArrayImages):
        """Pictures that must not be read after their vectors are kept."""

        def __getitem__(self, rows):
            assert not list(kept.glob("image-*.npy"))
            return super().__getitem__(rows)

    watched = dataclasses.replace(dataset, images=Watched(dataset.images.pixels))
    precompute(model, Loader(watched, "joint", mesh), FROZEN, kept, tmp_path / "decisions.json")
    assert len(list(kept.iterdir())) == 2


def test_kept_vectors_of_another_image_encoder_are_not_used(dataset, model, mesh, tmp_path):
    precompute(model, Loader(dataset, "joint", mesh), FROZEN, tmp_path / "k", tmp_path / "d.json")
    other = small.new_model(dataset, mesh, JOINT)
    bias = other.image_encoder.norm.bias
    bias.set_value(bias[...] + 1)
    loader = Loader(dataset, "joint", mesh)
    assert use_precomputed(other, loader, tmp_path / "k").sources == loader.sources


@pytest.fixture(scope="module")
def predictor(dataset, model, mesh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    rows = label_table.initialize(jax.random.key(0), SIZES["label"], 6, mesh).rows
    vectors = describe_once(model, Loader(dataset, "joint", mesh), folder / "vectors.npy")
    config, exact = PredictConfig(shortlist=9), IndexConfig(backend="exact")
    build_predictor(folder / "p", model, rows, dataset, vectors, config, exact, pooled=True)
    return Predictor.load_parts(folder / "p", model, dataset)


def handed_in(dataset, row):
    """Return test point `row` as a user's item: its prepared pixels, as the bytes of PNG files.

    Reading a PNG of the prepared size changes no pixel.
    """
    images = [io.BytesIO() for _ in dataset.test.images_of(row)]
    pixels = dataset.images[dataset.test.images_of(row)]
    for file, image in zip(images, pixels, strict=True):
        Image.fromarray(image).save(file, "PNG")
    return {"title": title("test", row), "images": [file.getvalue() for file in images]}


@pytest.mark.slow
def test_new_items_are_ranked_like_the_same_items_of_a_side(predictor, dataset, wanted):
    ((labels, scores),) = predictor.rank_side(dataset.test)
    x = unit(wanted[SIZES["train"] : SIZES["train"] + SIZES["test"]])
    z = unit(wanted[-SIZES["label"] :])
    wants = np.argsort(-(x @ z.T), 1)[:, :9]  # retrieval uses only the vectors
    np.testing.assert_array_equal(np.sort(labels, 1), np.sort(wants, 1))
    for some in ([*range(SIZES["test"])], [3], [2]):  # 3 has no title, 2 no pictures
        found = predictor.predict([handed_in(dataset, row) for row in some], k=9)
        assert [[one.label for one in row] for row in found] == labels[some].tolist()
        got = [[one.score for one in row] for row in found]
        np.testing.assert_allclose(got, scores[some], atol=1e-5)


def test_after_warm_up_no_query_compiles_anything(predictor, dataset, compilations):
    predictor.warm_up(points=16, images=3)
    items = [handed_in(dataset, row) for row in range(SIZES["test"])]
    compilations.clear()
    for some in (items[:1], items[2:3], items[3:4], items[:2], items[4:9], items):
        predictor.predict(some)
    assert not compilations


def test_an_item_with_several_titles_is_rejected(predictor):
    with pytest.raises(InputError, match="item 0: 2 titles; the model reads one with its pictures"):
        predictor.predict([{"titles": ["red lamp", "lamp"]}])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(modalities="joint"), "distilbert.*encodes a text alone.*=both"),
        (lambda: ModelConfig(text=TEXT), "visual_bert.*a text and its pictures as one.*=joint"),
    ],
)
def test_encoders_and_modalities_that_do_not_match_are_rejected(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_checkpoints_that_do_not_match_are_rejected(dataset, one_device):
    read = dataclasses.replace(
        JOINT, text=dataclasses.replace(TEXT, visual=14), text_checkpoint="x"
    )
    with pytest.raises(InputError, match=r"x reads vectors of 14 .*vectors of 12;.*resnet-101"):
        small.new_model(dataset, one_device, read)
    read = dataclasses.replace(JOINT, text=CONFIG.text, text_checkpoint="x")
    with pytest.raises(InputError, match="x encodes a text alone"):
        small.new_model(dataset, one_device, read)


def test_data_without_one_title_and_pictures_an_item_are_rejected(dataset):
    two = dataclasses.replace(dataset.train, text=np.zeros((26, 2), np.int32))
    with pytest.raises(InputError, match=r"several titles each.*modalities=both"):
        Loader(dataclasses.replace(dataset, train=two), "joint")
    ready = dataclasses.replace(dataset, text_vectors=np.zeros((40, 5), np.float32))
    with pytest.raises(InputError, match=r"ready vectors.*modalities=both"):
        Loader(ready, "joint")
    other = dataclasses.replace(dataset.test, text=dataset.test.text[::-1].copy())
    with pytest.raises(InputError, match="other data than its side 'test'"):
        Loader(dataset, "joint").slots(other, np.arange(3))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_batches_have_few_shapes(stage, dataset):
    loader = Loader(dataset, "joint", devices=8)
    if stage == "pretrain":
        config = pretrain_batches.PretrainConfig(batch_size=9)
        batches = pretrain_batches.Batches(config, dataset, loader, 0)
    else:
        lists = np.tile(np.arange(SIZES["label"], dtype=np.int32), (SIZES["train"], 1))
        config = finetune_batches.FinetuneConfig(batch_size=9, negatives=3)
        batches = finetune_batches.Batches(config, dataset, loader, lists, 0)
    shapes = {str([leaf.shape for leaf in jax.tree.leaves(batches(i))]) for i in range(40)}
    assert len(shapes) <= 2


@pytest.mark.slow
def test_a_checkpoint_is_read_by_the_model_that_sees_its_vectors(dataset, one_device):
    golden = GOLDEN / "visual_bert"
    seeing = dataclasses.replace(CONFIG.image, width=14)
    config = dataclasses.replace(JOINT, image=seeing, text_checkpoint=str(golden))
    model = new_model(config, dataset, one_device, seed=0)
    assert model.config.text.visual == 14
    wanted = small.weights(load_text_encoder(golden))
    found = small.weights(model.text_encoder)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value, path)


def test_the_presets_are_the_papers_rows():
    for name, mode in (("visualbert", "full"), ("visualbert-frozen", "frozen")):
        chosen = parse(amazon.PRESETS, [f"--preset={name}"]).experiment
        assert (chosen.model.modalities, chosen.model.self_attention) == ("joint", "none")
        assert chosen.model.cross_attention == "attention" and chosen.retrieve.pooled
        assert chosen.model.image_checkpoint == "microsoft/resnet-101"
        for stage in (chosen.pretrain, chosen.finetune):
            assert stage.optimizer.image_encoder == "frozen"
            assert stage.optimizer.text_encoder == mode
        assert (chosen.pretrain.epochs == 0) == (mode == "frozen")
        assert chosen.finetune.optimizer.rate == 5e-5


FLAGS = ("--preset=joint", "--report.figures")


@pytest.fixture(scope="module")
def whole_run(compiled, tmp_path_factory):
    """The folder of a finished joint run on one device; tests must not change it."""
    workdir = tmp_path_factory.mktemp("joint") / "run"
    minute.finish(workdir, *FLAGS, cache=compiled)
    return workdir


@pytest.mark.slow
def test_all_stages_work_and_the_report_names_what_it_cannot_show(whole_run):
    minute.assert_learned(whole_run)
    entries = np.load(whole_run / "retrieve" / "index" / "entries.npy")
    assert entries.shape == (30, 8)  # one vector a label
    page = (whole_run / "report" / "index.html").read_text()
    assert "one descriptor of a title and its pictures" in page


@pytest.mark.slow
@pytest.mark.rotates("joint", every=2)
def test_a_run_killed_in_training_resumes_to_the_same_bits(whole_run, compiled, tmp_path):
    for stage in ("pretrain", "finetune"):
        process = minute.start(tmp_path / "run", *FLAGS, cache=compiled)
        saved = tmp_path / "run" / stage / "checkpoints"
        try:
            while process.poll() is None and not [*saved.glob("[0-9]*/manifest.json")]:
                time.sleep(0.01)
        finally:
            process.kill()
            process.communicate()
        assert not (tmp_path / "run" / stage / "done.json").exists()
    minute.finish(tmp_path / "run", *FLAGS, cache=compiled)
    minute.assert_same(tmp_path / "run", whole_run)


@pytest.mark.slow
@pytest.mark.rotates("joint", every=2)
def test_eight_devices_train_like_one(whole_run, compiled, tmp_path):
    minute.finish(tmp_path / "run", *FLAGS, cache=compiled, devices=8)
    for stage in ("pretrain", "finetune"):
        one, eight = (minute.losses(at, stage) for at in (whole_run, tmp_path / "run"))
        np.testing.assert_allclose(one, eight, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.rotates("joint", every=2)
def test_frozen_checkpoints_run_without_module_1(compiled, tmp_path):
    shutil.copytree(GOLDEN / "visual_bert", tmp_path / "text")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "text" / "vocab.txt").write_text("\n".join(words) + "\n")
    modes = [f"--finetune.optimizer.{kind}-encoder=frozen" for kind in ("image", "text")]
    minute.finish(
        tmp_path / "run", *FLAGS, f"--model.text-checkpoint={tmp_path / 'text'}",
        "--model.image.width=14", "--pretrain.epochs=0", *modes, cache=compiled,
    )  # fmt: skip
    minute.assert_learned(tmp_path / "run")
    start, end = (tmp_path / "run" / stage / "model" for stage in ("pretrain", "finetune"))
    moved = {
        path.split("/")[0]
        for path, value in weights_of(start).items()
        if (value != weights_of(end)[path]).any()
    }
    assert moved == {"cross_attention"}


def weights_of(folder):
    return small.weights(load_model(folder, make_mesh(jax.devices()[:1])))


@pytest.mark.slow
@pytest.mark.rotates("joint", every=2)
def test_ready_vectors_of_pictures_are_read_with_titles(compiled, tmp_path):
    minute.finish(
        tmp_path / "run", *FLAGS, "--miniature.pictures=vectors", "--model.reduce=linear",
        cache=compiled,
    )  # fmt: skip
    minute.assert_learned(tmp_path / "run")
    predictor = Predictor.load(tmp_path / "run")
    assert len(predictor.predict([{"title": "a chair"}], k=3)[0]) == 3
