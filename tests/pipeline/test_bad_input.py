"""Every kind of bad input ends with one line that names what was found, and with its exit code."""
# ruff: noqa: E501 (the table of kinds has one a line)

import dataclasses
import json
import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import minute
import numpy as np
import pytest
from places import GOLDEN
from raw_folders import picture, tiny_repository, write_json_lines, write_vectors

from mufin_jax.pipeline import run as running
from mufin_jax.pipeline.cli import main

Flags = list[str]


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of bad input: how to make it in a folder, the words of its error, and its exit code."""

    name: str
    make: Callable[[Path], Flags]
    message: str
    code: int = 2


def flags(*given: str) -> Callable[[Path], Flags]:
    """Only flags, without a bad file."""
    return lambda folder: list(given)


def repository(harm: Callable[[Path], object], *more: str) -> Callable[[Path], Flags]:
    """A valid catalogue in the repository's format, then damaged."""

    def make(folder: Path) -> Flags:
        tiny_repository(folder / "raw")
        harm(folder / "raw")
        return [f"--data={folder / 'raw'}", "--stage=prepare", *more]

    return make


def replaced(name: str, old: str, new: str) -> Callable[[Path], Flags]:
    """A valid catalogue with one text file changed; an empty `old` replaces the whole file."""

    def harm(raw: Path) -> None:
        text = (raw / name).read_text()
        assert old in text
        (raw / name).write_text(text.replace(old, new) if old else new)

    return repository(harm)


def vectors(harm: Callable[[Path], object], *more: str) -> Callable[[Path], Flags]:
    """A valid catalogue with ready vectors, then damaged."""

    def make(folder: Path) -> Flags:
        titles = {
            s: [(f"{s}{i}", f"chair {i}") for i in range(9)] for s in ("train", "test", "label")
        }
        write_vectors(
            folder / "raw", titles, {side: [[i] for i in range(9)] for side in ("train", "test")},
            {side: np.ones((9, 4), np.float32) for side in titles},
            {side: [[i] for i in range(9)] for side in titles},
        )  # fmt: skip
        harm(folder / "raw")
        return [f"--data={folder / 'raw'}", *(more or ("--stage=prepare",))]

    return make


def saved(name: str, array: np.ndarray) -> Callable[[Path], None]:
    """Damage: another array in a file."""
    return lambda raw: np.save(raw / name, array)


def json_lines(harm: Callable[[Path], object], *more: str) -> Callable[[Path], Flags]:
    """A valid catalogue of products, then damaged."""

    def make(folder: Path) -> Flags:
        write_json_lines(folder / "raw", products=[
            {"ASIN": f"B{i}", "title": f"lamp {i}", "images": [f"images/{i}.png"],
             "also_buy": [f"B{(i + 1) % 20}"]} for i in range(20)])  # fmt: skip
        harm(folder / "raw")
        return [f"--data={folder / 'raw'}", "--stage=prepare", *more]

    return make


def replaced_in(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Damage: a text that stands differently in a file."""

    def harm(raw: Path) -> None:
        text = (raw / name).read_text()
        assert old in text
        (raw / name).write_text(text.replace(old, new))

    return harm


def huge_pictures(raw: Path) -> None:
    """Damage: files of a few kB that unpack to hundreds of MB."""
    huge = picture(1, (5000, 5000), "PNG")
    for path in (raw / "images").iterdir():
        path.write_bytes(huge)


class Runs:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return print, ("the user's file ran code",)


def code_in_map(raw: Path) -> None:
    """Damage: a map whose pickle runs code."""
    header = {"descr": "|O", "fortran_order": False, "shape": (9,)}
    with open(raw / "trn_imgs_384_3_map.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(Runs(), file)


def checkpoint(harm: Callable[[Path], object]) -> Callable[[Path], Flags]:
    """A valid image checkpoint, then damaged."""

    def make(folder: Path) -> Flags:
        shutil.copytree(GOLDEN / "vit", folder / "vit")
        harm(folder / "vit")
        return [f"--model.image-checkpoint={folder / 'vit'}"]

    return make


def prepared(harm: Callable[[Path], object], *more: str) -> Callable[[Path], Flags]:
    """A run with prepared data, then damaged."""

    def make(folder: Path) -> Flags:
        assert main(minute.PRESETS, [f"--workdir={folder / 'run'}", "--stage=prepare"]) == 0
        harm(folder / "run")
        return [*(more or ("--stage=pretrain",))]

    return make


def cut(name: str) -> Callable[[Path], None]:
    """Damage: the second half of a file is missing."""

    def harm(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return harm


def flipped(name: str) -> Callable[[Path], None]:
    """Damage: one bit of a file is flipped."""

    def harm(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 8
        (folder / name).write_bytes(content)

    return harm


def removed(name: str) -> Callable[[Path], None]:
    """Damage: a file is missing."""
    return lambda folder: (folder / name).unlink()


def made(name: str, content: str) -> Callable[[Path], Flags]:
    """A data folder (or, for "", a data file) with one given file."""

    def make(folder: Path) -> Flags:
        (folder / "raw").mkdir()
        (folder / "raw" / (name or "file")).write_text(content)
        return [f"--data={folder / 'raw'}{'' if name else '/file'}"]

    return make


def empty(folder: Path) -> Flags:
    """An empty data folder."""
    (folder / "raw").mkdir()
    return [f"--data={folder / 'raw'}"]


def workdir_is_a_file(folder: Path) -> Flags:
    """A file instead of the run's folder."""
    (folder / "run").write_text("")
    return []


def broken_tokenizer(folder: Path) -> Flags:
    """An invalid tokenizer."""
    (folder / "tokenizer.json").write_text("{]")
    return [f"--prepare.tokenizer={folder / 'tokenizer.json'}"]


def other_tokenizer(folder: Path) -> Flags:
    """A text checkpoint, and a tokenizer with more tokens than the checkpoint."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(100))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return [f"--model.text-checkpoint={GOLDEN / 'distilbert'}", f"--prepare.tokenizer={folder}"]


def other_architecture(folder: Path) -> Flags:
    """A checkpoint of pictures instead of one of text."""
    return [f"--model.text-checkpoint={GOLDEN / 'vit'}", *other_tokenizer(folder)[1:]]


def sentence_encoder(*flags: str, **steps: str) -> Callable[[Path], Flags]:
    """A valid sentence encoder, with other steps or other flags."""

    def make(folder: Path) -> Flags:
        shutil.copytree(GOLDEN / "minilm", folder / "minilm")
        listed = [{"type": name, "path": path} for name, path in steps.items()]
        if steps:
            (folder / "minilm" / "modules.json").write_text(json.dumps(listed))
        return [f"--model.text-checkpoint={folder / 'minilm'}", *flags]

    return make


def too_little(folder: Path) -> Flags:
    """A catalogue with one label, so no datapoint has a negative."""
    return [f"--data={tiny_repository(folder / 'raw', 2)}"]


PRETRAIN = "--pretrain.optimizer"
CASES = [
    # The command line.
    Case("unknown preset", flags("--preset=huge"), "--preset=huge: expected one of miniature, paper"),
    Case("unknown stage", flags("--stage=train"), "--stage=train: expected one of prepare, pretrain"),
    Case("misspelt option", flags("--pretrain.epoch=3"), "option --pretrain.epoch; did you mean --pretrain.epochs?"),
    Case("option without its part", flags("--epochs=3"), "did you mean --pretrain.epochs or --finetune.epochs?"),
    Case("unknown option", flags("--frobnicate"), "unrecognized option --frobnicate; see --help"),
    Case("stray argument", flags("evaluate"), "unexpected argument 'evaluate': options are given as"),
    Case("value missing", flags("--pretrain.epochs"), "--pretrain.epochs: expected a value after it"),
    Case("no whole number", flags("--pretrain.epochs=x"), "--pretrain.epochs: 'x' is not a whole number"),
    Case("no number", flags(f"{PRETRAIN}.rate=fast"), "optimizer.rate: 'fast' is not a number"),
    Case("no choice", flags(f"{PRETRAIN}.image-encoder=all"), "encoder=all: expected one of frozen, last, full, auto"),
    # Invalid values.
    Case("negative rate", flags(f"{PRETRAIN}.rate=-1"), "rate=-1.0: expected a positive learning rate"),
    Case("rate of zero", flags(f"{PRETRAIN}.rate=0"), "rate=0.0: expected a positive learning rate"),
    Case("rate NaN", flags(f"{PRETRAIN}.rate=nan"), "rate=nan: expected a positive learning rate"),
    Case("infinite rate", flags("--finetune.optimizer.table-rate=inf"), "table_rate=inf: expected a positive learning rate"),
    Case("heads that do not divide", flags("--model.heads=3"), "heads=3: heads must divide dim"),
    Case("negative seed", flags("--seed=-1"), "seed=-1: expected a whole number from 0"),
    Case("seed too large", flags("--seed=4294967296"), "seed=4294967296: expected"),
    Case("no epochs", flags("--finetune.epochs=0"), "finetune.epochs=0: expected a number >= 1"),
    Case("epochs below none", flags("--pretrain.epochs=-1"), "pretrain.epochs=-1: expected a number >= 0"),
    Case("batch of one label", flags("--pretrain.batch-size=1"), "pretrain.batch_size=1: expected at least 2"),
    Case("margin that is no cosine", flags("--finetune.margin=2"), "finetune.margin=2.0: expected a cosine"),
    Case("weight beyond 1", flags("--initialize.alpha=2"), "initialize.alpha=2.0: expected a weight"),
    Case("patch that does not divide", flags("--model.image.patch=5"), "isn't a multiple of patch=5"),
    Case("too few labels invented", flags("--miniature.labels=3"), "labels=3, expected at least 24"),
    Case("no tokens", flags("--prepare.max-tokens=1"), "max_tokens is 1: expected at least 3"),
    Case("interval NaN", flags("--finetune.fit.checkpoint-seconds=nan"), "checkpoint_seconds=nan: expected more"),
    Case("text longer than the encoder", flags("--prepare.max-tokens=64", ), "texts have up to 64 tokens, but the text encoder takes 16"),
    # The data folder as a whole.
    Case("no data folder", flags("--data=/no/such/folder"), "--data=/no/such/folder: no such folder"),
    Case("data that are a file", made("", "x"), "raw/file is another kind of file: expected a folder"),
    Case("empty data folder", empty, "raw holds nothing: expected raw_data/"),
    Case("unknown form", made("data.csv", "a,b"), "raw holds data.csv: expected raw_data/"),
    # The repository's form.
    Case("relevance missing", repository(removed("trn_X_Y.txt")), "lacks trn_X_Y.txt"),
    Case("test split missing", repository(removed("raw_data/test.raw.txt")), "test.raw.txt"),
    Case("label file empty", replaced("raw_data/label.raw.txt", "", ""), "label.raw.txt is empty"),
    Case("header that is none", replaced("trn_X_Y.txt", "40 20\n", "forty\n"), "trn_X_Y.txt:1: expected a header"),
    Case("header of other data", replaced("trn_X_Y.txt", "40 20\n", "40 21\n"), "but there are 40 points and 20 labels"),
    Case("header twice", replaced("trn_X_Y.txt", "40 20\n", "40 20\n40 20\n"), "trn_X_Y.txt:42: more lines than the 40"),
    Case("rows missing", replaced("tst_X_Y.txt", "\n19:1.0", ""), "tst_X_Y.txt has 38 rows"),
    Case("labels out of range", replaced("trn_X_Y.txt", "\n1", "\n9"), "but there are 20 labels"),
    Case("words for relevance", replaced("trn_X_Y.txt", ":1.0", ":yes"), "40 of 80 relevance rows are bad", 65),
    Case("no relevant pair", replaced("trn_X_Y.txt", ":1.0", ":0"), "no training point has a label"),
    Case("lines without ids", replaced("raw_data/train.raw.txt", "->", " "), "lines are bad", 65),
    Case("neither titles nor pictures", repository(lambda raw: (
        (raw / "raw_data/test.raw.txt").write_text("".join(f"B{i}->\n" for i in range(40))),
        shutil.rmtree(raw / "images"))), "none of the 40 test items has a title or a usable image"),
    Case("picture offsets truncated", repository(cut("images/train.img.bin.npz")), "train.img.bin.npz is not a CSR matrix"),
    Case("pictures truncated", repository(cut("images/img.bin")), "images are bad", 65),
    Case("filter of words", repository(lambda raw: (raw / "filter_labels_test.txt").write_text("a b\n")), "1 of 1 filter pairs are bad", 65),
    Case("categories of other labels", repository(lambda raw: (raw / "categories.txt").write_text("x\n")), "categories.txt has 1 lines, but there are 20 labels"),
    Case("ceiling that is none", repository(lambda raw: (raw / "ceiling.json").write_text("[1]")), "ceiling.json is invalid"),
    Case("a single label", too_little, "1 of its labels have a training pair, expected at least 2"),
    # JSON lines and their pictures.
    Case("broken JSON", json_lines(lambda raw: (raw / "products.jsonl").write_text(
        (raw / "products.jsonl").read_text().replace('{"ASIN": "B7"', '{"ASIN": "B7', 2).replace('"title": "lamp 9"', '"title": 9'))),
        "2 of 20 lines are bad, more than the tolerated 5%; most often (2 times) bad line, first at products.jsonl:8", 65),
    Case("products file empty", json_lines(lambda raw: (raw / "products.jsonl").write_text("")), "products.jsonl is empty"),
    Case("huge pictures", json_lines(huge_pictures), "5000 x 5000 is more than 16,000,000 pixels", 65),
    Case("ids of other case", json_lines(replaced_in("products.jsonl", '["B', '["b')), "none of the 20 ids in `also_buy` is the id of a product; the first, in line 1, is 'b1' (there is 'B1')"),
    Case("relations under another name", json_lines(replaced_in("products.jsonl", "also_buy", "alsoBuy")), "if the relations are in alsoBuy, set --prepare.columns related=alsoBuy"),
    Case("products in UTF-16", json_lines(lambda raw: (raw / "products.jsonl").write_text("{}", "utf-16")), "products.jsonl is UTF-16: expected UTF-8; convert it by `iconv -f UTF-16 -t UTF-8`"),
    Case("paths with backslashes", json_lines(replaced_in("products.jsonl", "images/", "images\\\\")), 'a path with "\\": expected "/" between folders', 65),
    Case("pictures behind a link", json_lines(lambda raw: (
        (raw / "images").rename(raw.with_name("photos")), (raw / "images").symlink_to(raw.with_name("photos")))),
        "most often (1 times) linked image", 65),
    Case("no folder of pictures", json_lines(lambda raw: None, "--prepare.images=/no/such"), "/no/such is not a folder: expected the folder of the pictures"),
    # Other forms of products.
    Case("column that is none", json_lines(lambda raw: None, "--prepare.columns", "name=x"), "columns: 'name=x': expected id=NAME"),
    Case("column that no product has", json_lines(lambda raw: None, "--prepare.columns", "title=label"), "no item has a value in 'label', which columns names; found the fields ASIN, title"),
    Case("table without ids", made("products.csv", "name,price\nlamp,3\n"), "products.csv: no column is an id: expected ASIN, asin, uid, parent_asin, id, or --prepare.columns id=NAME; found the columns name, price"),
    Case("table with a quote that is not closed", made("products.csv", 'id,title\n1,"oak\n' + "2,x\n" * 40_000), "products.csv:2: field larger than field limit"),
    Case("table with two columns of a name", made("products.csv", "id,title,title\n1,2,3\n"), "two columns are named 'title'"),
    Case("array cut short", made("products.json", '[{"ASIN": "A"},'), "products.json: value 1: the file ends before its last bracket"),
    Case("array with an error", made("products.json", '[{"ASIN": "A"}, {"ASIN" "B"}]'), "products.json: value 2: not JSON"),
    Case("text as Parquet", made("products.parquet", "id,title"), "products.parquet is not a Parquet file"),
    # Ready vectors.
    Case("NaN in vectors", vectors(saved("tst_embs_imgs_3_4.npy", np.full((9, 4), np.nan, np.float32))), "tst_embs_imgs_3_4.npy: row 0 holds NaN"),
    Case("vectors of whole numbers", vectors(saved("trn_embs_imgs_3_4.npy", np.ones((9, 4), int))), "holds int64 (9, 4): expected floats"),
    Case("vectors of other widths", vectors(saved("trn_embs_imgs_3_4.npy", np.ones((9, 5), np.float32))), "different widths"),
    Case("map of other length", vectors(saved("lbl_imgs_384_3_map.npy", np.arange(5))), "map.npy has 5 entries, but lbl.raw.txt has 9 items"),
    Case("map beyond the vectors", vectors(saved("lbl_imgs_384_3_map.npy", np.arange(9) + 3)), "unknown vector", 65),
    Case("map with code", vectors(code_in_map), "trn_imgs_384_3_map.npy is not an array of lists of integers"),
    Case("vectors truncated", vectors(cut("trn_embs_imgs_3_4.npy")), "trn_embs_imgs_3_4.npy is not an npy file of vectors"),
    Case("vectors twice", vectors(saved("trn_embs_imgs_5_4.npy", np.ones((9, 4), np.float32))), "keep only the file to use"),
    Case("picture checkpoint for vectors", vectors(lambda raw: None, f"--model.image-checkpoint={GOLDEN / 'vit'}"), "hold ready image vectors; expected pixels"),
    # Checkpoints.
    Case("no checkpoint", flags("--model.image-checkpoint=no/such/folder"), "no folder no/such/folder; give a checkpoint's folder"),
    Case("checkpoint without preprocessing", checkpoint(removed("preprocessor_config.json")), "preprocessor_config.json is missing"),
    Case("checkpoint without config", checkpoint(removed("config.json")), "config.json is missing; give a complete"),
    Case("checkpoint without weights", checkpoint(removed("model.safetensors")), "no model.safetensors in"),
    Case("checkpoint truncated", checkpoint(cut("model.safetensors")), "model.safetensors can't be read"),
    Case("checkpoint of another architecture", other_architecture, "model_type is 'vit'; expected one that encodes texts: distilbert"),
    Case("checkpoint without tokenizer", flags(f"--model.text-checkpoint={GOLDEN / 'distilbert'}"), "has neither tokenizer.json nor vocab.txt"),
    Case("tokenizer of another checkpoint", other_tokenizer, "distilbert embeds 61; set --prepare.tokenizer="),
    Case("checkpoint with a layer after the pooling", sentence_encoder(Pooling="1_Pooling", Dense="2_Dense"), "modules.json: step 'Dense' isn't implemented"),
    Case("checkpoint for shorter texts", sentence_encoder("--prepare.max-tokens=183"), "minilm takes texts of at most 182 tokens; set --prepare.max-tokens=182"),
    Case("checkpoint with other sizes", checkpoint(lambda folder: (folder / "config.json").write_text((folder / "config.json").read_text().replace("40", "41"))), "but config.json implies (24, 41)"),
    Case("checkpoint of texts alone in a joint model", flags("--model.modalities=joint", f"--model.text-checkpoint={GOLDEN / 'mpnet'}"), "mpnet encodes a text alone; choose --model.modalities=both"),
    Case("broken tokenizer", broken_tokenizer, "tokenizer.json is not a tokenizer"),
    # The run's folder.
    Case("stage without its predecessor", flags("--stage=retrieve"), "stage retrieve needs prepare, which is not finished"),
    Case("run's folder is a file", workdir_is_a_file, "run is, or lies in, a file; choose another --workdir"),
    Case("another configuration", prepared(lambda run: None, "--prepare.max-tokens=9"), "made with other settings (max_tokens: 8 -> 9)"),
    Case("prepared file truncated", prepared(cut("prepare/texts.npy")), "texts.npy: "),
    Case("prepared file with a wrong bit", prepared(flipped("prepare/texts.npy")), "texts.npy has changed since it was prepared"),
    Case("prepared file missing", prepared(removed("prepare/manifest.json")), "no manifest.json"),
    Case("settings broken", prepared(cut("prepare/settings.json"), "--stage=all"), "settings.json: not JSON"),
    Case("other files where the catalogue goes", lambda folder: (
        (folder / "run" / "miniature").mkdir(parents=True), (folder / "run" / "miniature" / "x").touch(), [])[-1],
        "holds other files, expected an empty folder"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_traces(monkeypatch):
    """Undo what `main` sets for the whole process: log handlers and JAX's compile cache."""
    root = logging.getLogger()
    before = list(root.handlers)
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    yield
    root.handlers[:] = before


def test_the_list_has_at_least_thirty_kinds_of_bad_input():
    assert len({case.name for case in CASES}) == len(CASES) >= 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_ends_in_one_line(case, tmp_path, capsys):
    given = case.make(tmp_path)
    capsys.readouterr()
    code = main(minute.PRESETS, [f"--workdir={tmp_path / 'run'}", *given])
    lines = [line for line in capsys.readouterr().err.splitlines() if not is_log(line)]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ") and case.message in lines[0], lines[0]
    assert code == case.code, lines[0]
    assert len(lines[0]) < 600 and "Traceback" not in lines[0]
    if case.name.startswith(("checkpoint", "no checkpoint", "tokenizer", "broken tokenizer")):
        assert not (tmp_path / "run" / "prepare").exists(), "it began before it looked"


def named_checkpoints(config: object, prefix: str = "") -> Iterator[str]:
    """Yield the flags of all settings that name a checkpoint or a tokenizer."""
    for field in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value, flag = getattr(config, field.name), f"{prefix}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from named_checkpoints(value, f"{flag}.")
        elif field.name.endswith("_checkpoint") or field.name == "tokenizer":
            yield f"--{flag}"


NAMED = sorted(named_checkpoints(minute.MINUTE))


@pytest.mark.parametrize("flag", NAMED)
def test_whatever_names_a_checkpoint_is_checked_before_the_first_stage(flag, tmp_path, capsys):
    harmed = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / ("vit" if "image" in flag else "minilm"), harmed)
    for name in ("config.json", "tokenizer.json"):
        if (harmed / name).exists():
            (harmed / name).write_text('{"model_type": ')
    code = main(minute.PRESETS, [f"--workdir={tmp_path / 'run'}", f"{flag}={harmed}"])
    lines = [line for line in capsys.readouterr().err.splitlines() if not is_log(line)]
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {harmed}/"), lines
    assert not (tmp_path / "run" / "prepare").exists()


def test_three_settings_name_a_checkpoint():
    assert NAMED == ["--model.image-checkpoint", "--model.text-checkpoint", "--prepare.tokenizer"]


def is_log(line: str) -> bool:
    """Return whether a line is a log line: time and level before the message."""
    words = line.split(" ", 2)
    return len(words) == 3 and words[0].count(":") == 2 and words[1] in ("INFO", "WARNING")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--pretrain.epoch=3"], "error: unrecognized option --pretrain.epoch; did you mean"),
        (["--data=/no/such/folder"], "error: --data=/no/such/folder: no such folder"),
    ],
)
def test_a_process_with_bad_input_prints_one_line_and_nothing_else(given, message, tmp_path):
    process = subprocess.run(
        [sys.executable, minute.__file__, f"--workdir={tmp_path / 'run'}", *given],
        capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.count("\n") == 1 and process.stderr.startswith(message)
