"""The mistakes of newcomers, one a row: how each is made, and the words of the line that tells it.

A stranger to the code made this list by trying. Rows of exit code 0 are no errors: the catalogue is
prepared, with a warning of these words, or without any.
"""
# ruff: noqa: E501 (the table has one mistake a line)

import shutil
from pathlib import Path

import newcomers
import numpy as np
from newcomers import (
    COUNT,
    Mistake,
    amazon_help,
    and_then,
    built,
    calls,
    command,
    good,
    json_lines,
    prepare,
    products,
    sides,
    table,
    text,
    unchecked,
    vectors,
)
from places import GOLDEN

import mufin_jax as mufin
from mufin_jax.pipeline import embed, img_bin
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.items import check_k, read_ids, read_query
from mufin_jax.prediction.load import load_run
from mufin_jax.prediction.warming import warm_up

CSV = table(products())
BAD = 65


def every(**fields):
    """An edit that gives every product the same values."""
    return lambda i, product: product.update(fields)


def rare(i, product):
    """An edit: only B04, which is a test product, relates to B11."""
    own = ["B11", "B05"] if i == 4 else [f"B{(i + k) % (COUNT - 1):02d}" for k in (1, 2, 3)]
    product.update(also_buy=own)


def zipped(name: str):
    """The catalogue as a zip archive under another name."""

    def make(raw: Path) -> None:
        shutil.make_archive(str(raw.with_name("packed")), "zip", raw)
        raw.with_name("packed.zip").rename(raw / name)

    return make


def finished(folder: Path) -> Path:
    """Make the files by which a finished run is known."""
    for name in ("run.json", "prepare/manifest.json", "prepare/settings.json", "finetune/settings.json",
                 "finetune/predictor/predictor.json"):  # fmt: skip
        path = folder / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder / "run"


def after_prepare(*more: str):
    """Call the command line on a catalogue that is prepared."""

    def call(folder: Path) -> int:
        assert prepare(None, "--stage=prepare")(folder) == 0
        return command(*more)(folder)

    return call


LABELS = [{"ASIN": f"L{i}", "title": f"rug {i}"} for i in range(COUNT)]
POINTS = [
    {"ASIN": f"P{i}", "title": f"vase {i}", "target_ind": [i % COUNT, (i + 1) % COUNT]}
    for i in range(2 * COUNT)
]
ZEROS, ONES = np.zeros((COUNT, 4), np.float32), np.ones((COUNT, 4), np.float32)
SOME = np.random.default_rng(0).normal(size=(COUNT, 4)).astype(np.float32)

TABLES = [
    Mistake("the catalogue without a mistake", prepare(), "", 0),
    Mistake("the id column is named SKU", prepare(text("products.csv", CSV.replace("ASIN", "SKU", 1))), "no column is an id: expected ASIN"),
    Mistake("semicolons between columns, commas in lists", prepare(text("products.csv", table(products(), ";", ","))), "", 0),
    Mistake("blanks between related ids", prepare(text("products.csv", table(products(), between=" "))), "none of the 12 ids in `also_buy` is the id of a product; the first, in line 2, is 'B01 B02 B03 B04'"),
    Mistake("Excel's Unicode text named .csv", prepare(text("products.csv", table(products(), "\t").encode("utf-16"))), "is UTF-16: expected UTF-8; convert it by `iconv"),
    Mistake("commas in a .tsv", prepare(text("products.tsv", CSV)), "no column is an id"),
    Mistake("no header", prepare(text("products.csv", CSV.partition("\n")[2])), "found the columns B00, oak lamp 0"),
    Mistake("a column named twice by options", prepare(None, "--prepare.columns", "title=title", "title=ASIN"), "columns: 'title=ASIN': expected"),
    Mistake("line breaks within quoted titles", prepare(text("products.csv", table(products(lambda i, p: p.update(title=f"oak\nlamp {i}"))))), "", 0),
    Mistake("unquoted commas in titles", prepare(text("products.csv", CSV.replace("oak lamp", "oak, lamp"))), "products.csv:2: 5 values, expected 4", BAD),
    Mistake("lists as NumPy prints them", prepare(text("products.csv", CSV.replace("|", "' '"))), "none of the 12 ids in `also_buy` is the id of a product"),
    Mistake("Excel has taken the zeros of ids away", prepare(text("products.csv", CSV.replace("B", "00").replace("\n00", "\n"))), "the first product's id is '0"),
    Mistake("a workbook named .csv", prepare(zipped("products.csv")), "products.csv is a zip archive, or a workbook such as .xlsx: expected text; unpack it, or export the sheet as CSV"),
    Mistake("an archive named .jsonl", prepare(zipped("products.jsonl")), "products.jsonl is a zip archive"),
    Mistake("a gzip file without its ending", prepare(text("products.csv", b"\x1f\x8b\x08" + b"x" * 99)), "products.csv is a gzip file: expected text; give its name the ending .gz"),
    Mistake("a Parquet file named .csv", prepare(text("products.csv", b"PAR1\x15" + b"x" * 99)), "products.csv is a Parquet file: expected text; give its name the ending .parquet"),
    Mistake("line ends of old Macs", prepare(text("products.csv", CSV.replace("\n", "\r"))), "products.csv has lines that end in CR alone: expected LF or CRLF; convert it by `tr '\\r' '\\n'`"),
    Mistake("line ends of old Macs in JSON lines", prepare(lambda raw: json_lines(raw / "products.jsonl", products(), "\r")), "products.jsonl has lines that end in CR alone"),
    Mistake("a workbook next to the pictures", prepare(zipped("products.xlsx")), "export the sheet of products.xlsx as CSV"),
]  # fmt: skip

PRODUCTS = [
    Mistake("a comma after the last value of an array", prepare(lambda raw: (raw / "products.json").write_text("[" + "".join(f"{p},\n" for p in map(newcomers.json.dumps, products())) + "]")), "", 0),
    Mistake("a comma after each JSON line", prepare(lambda raw: json_lines(raw / "products.jsonl", products(), ",\n")), "12 of 12 lines are bad", BAD),
    Mistake("numbers as titles", prepare(edit=every(title=19.9)), "expected `title` to be a string, found float", BAD),
    Mistake("titles by language", prepare(edit=every(title={"en": "lamp"})), "expected `title` to be a string, found dict", BAD),
    Mistake("one title for all", prepare(edit=every(title="lamp")), "all 12 products have one title, 'lamp'", 0),
    Mistake("one product without relations", prepare(lambda raw: json_lines(raw / "products.jsonl", products(every(also_buy=[]), 1))), "none of the 1 products has ids in `also_buy`"),
    Mistake("products that relate to themselves alone", prepare(edit=lambda i, p: p.update(also_buy=[p["ASIN"]])), "each of them relates to itself alone; expected the ids of other products"),
    Mistake("pairs that relate to each other alone", prepare(edit=lambda i, p: p.update(also_buy=[f"B{i ^ 1:02d}"])), "nothing that they relate to is bought with a training product"),
    Mistake("titles instead of related ids", prepare(edit=lambda i, p: p.update(also_buy=[f"oak lamp {(i + 1) % COUNT}"])), "none of the 12 ids in `also_buy` is the id of a product; the first, in line 1, is 'oak lamp 1'"),
    Mistake("numbers of categories instead of related ids", prepare(edit=lambda i, p: p.update(also_buy=[i % 4])), "none of the 12 ids in `also_buy` is the id of a product"),
    Mistake("whole numbers as ids", prepare(edit=lambda i, p: p.update(ASIN=i, also_buy=[(i + k) % COUNT for k in range(1, 7)])), "", 0),
    Mistake("related ids in one text", prepare(edit=lambda i, p: p.update(also_buy=",".join(p["also_buy"]))), "expected `also_buy` to be a list of str, found str", BAD),
    Mistake("related ids with their counts", prepare(edit=lambda i, p: p.update(also_buy=dict.fromkeys(p["also_buy"], 2))), "expected `also_buy` to be a list of str, found dict", BAD),
    Mistake("related ids as objects", prepare(edit=lambda i, p: p.update(also_buy=[{"id": uid} for uid in p["also_buy"]])), "expected `also_buy` to be a list of str, found dict in it", BAD),
    Mistake("one id for all", prepare(edit=every(ASIN="B00")), "repeated id, first at products.jsonl:2: B00 occurs in an earlier line. Give every item an id of its own", BAD),
    Mistake("a product that only a test product relates to", prepare(edit=rare), "1 x label without a training product", 0),
    Mistake("options of columns joined by commas", prepare(None, "--prepare.columns=id=ASIN,title=title"), "columns: 'id=ASIN,title=title': separate them by blanks: --prepare.columns id=ASIN title=title"),
    Mistake("a colon in an option of columns", prepare(None, "--prepare.columns", "id:ASIN"), "columns: 'id:ASIN': expected id=NAME"),
]  # fmt: skip

FOLDERS = [
    Mistake("the same file for training, test and labels", prepare(sides(trn=products(), tst=products(), lbl=products())), "test pairs that training has", 0),
    Mistake("trn.jsonl next to products.jsonl", prepare(and_then(good, sides(trn=products()))), "trn.jsonl is not read, as products.jsonl is", 0),
    Mistake("two files of products", prepare(and_then(good, text("products.csv", CSV))), "products.csv is not read, as products.jsonl is", 0),
    Mistake("products.jsonl next to a file a side", prepare(and_then(good, sides(trn=POINTS[COUNT:], tst=POINTS[:COUNT], lbl=LABELS))), "products.jsonl is not read, as", 0),
    Mistake("no file of labels", prepare(sides(trn=POINTS, tst=POINTS)), "lbl.jsonl is missing"),
    Mistake("numbers of labels that count from one", prepare(sides(trn=[dict(p, target_ind=[i + 1 for i in p["target_ind"]]) for p in POINTS], tst=POINTS[:3], lbl=LABELS)), "if the numbers count from 1, subtract 1 from each", 0),
    Mistake("ids instead of numbers of labels", prepare(sides(trn=[dict(p, target_ind=["L1"]) for p in POINTS], tst=POINTS[:3], lbl=LABELS)), "expected `target_ind` to be a list of int, found str in it", BAD),
    Mistake("a zip instead of its folder", prepare(and_then(good, zipped("cat.zip")), "--data=RAW/cat.zip"), "cat.zip is an archive: unpack it, and name the folder"),
    Mistake("a workbook as the data", prepare(zipped("cat.xlsx"), "--data=RAW/cat.xlsx"), "cat.xlsx is a workbook: export its sheet as CSV"),
    Mistake("a text file as the data", prepare(text("notes.txt", "x"), "--data=RAW/notes.txt"), "notes.txt is another kind of file: expected a folder, or a file of products"),
    Mistake("the folder around the catalogue", prepare(lambda raw: (good(raw), raw.rename(raw.with_name("x")), raw.mkdir(), raw.with_name("x").rename(raw / "x"))), "is the catalogue raw/x?"),
    Mistake("a link to a catalogue that is gone", prepare(lambda raw: (raw / "link").symlink_to("gone"), "--data=RAW/link"), "link is a link to gone, which is gone"),
    Mistake("the run's folder is the data folder", prepare(None, "--workdir=RAW"), "", 0),
    Mistake("a name with a home sign that a shell has not replaced", prepare(None, "--data=~/no-such-catalogue"), "no-such-catalogue: no such folder"),
]  # fmt: skip

PICTURES = [
    Mistake("pictures as URLs", prepare(edit=lambda i, p: p.update(images=[f"https://x.example/{i}.png"])), "are given as URLs, which are not downloaded", 0),
    Mistake("pictures as data: addresses", prepare(edit=every(images=["data:image/png;base64," + "iVBORw0KGgo" * 60])), "data:image/png;base64,iVBORw0KGgoiVBORw0... (682 characters): a picture as base64 text: expected the path of a file", BAD),
    Mistake("pictures as bare base64", prepare(edit=every(images=["iVBORw0KGgo" * 60])), "a picture as base64 text: expected the path of a file", BAD),
    Mistake("short pictures as base64 with slashes", prepare(edit=every(images=["/9j/" + "4AAQSkZJRgABAQAA" * 20])), "a picture as base64 text: expected the path of a file", BAD),
    Mistake("names of pictures without their folder", prepare(edit=lambda i, p: p.update(images=[f"b{i:02d}.png"])), "b00.png: no such file (there is images/b00.png: name the folder by --prepare.images=", BAD),
    Mistake("names of pictures in capital letters", prepare(edit=lambda i, p: p.update(images=[f"images/B{i:02d}.PNG"])), "images/B00.PNG: no such file (there is b00.png)", BAD),
    Mistake("absolute paths of pictures", prepare(edit=lambda i, p: p.update(images=[f"/photos/b{i:02d}.png"])), "not a path relative to the data folder", BAD),
    Mistake("paths of pictures with a drive", prepare(edit=lambda i, p: p.update(images=[f"C:\\me\\b{i:02d}.png"])), 'a path with "\\": expected "/" between folders', BAD),
    Mistake("one picture for all", prepare(edit=every(images=["images/b00.png"])), "all 12 products have one picture", 0),
]  # fmt: skip

VECTORS = [
    Mistake("float64 vectors", vectors(SOME.astype(np.float64)), "holds float64 (12, 4): expected float32 or float16"),
    Mistake("ids of vectors in small letters", vectors(SOME, "text", "".join(f"b{i:02d}\n" for i in range(COUNT))), "none of its ids is an item of the data; expected ids such as 'B0"),
    Mistake("vectors without ids", vectors(SOME, "text", ""), "has no ids: expected x.ids.txt next to it"),
    Mistake("one vector that is no number", vectors(np.where(np.arange(COUNT)[:, None] == 3, np.nan, SOME)), "row 4 holds NaN or infinity"),
    Mistake("text vectors of zeros", vectors(ZEROS), "all 12 vectors are zero: expected vectors that an encoder has made"),
    Mistake("image vectors of zeros", vectors(ZEROS, "image"), "all 12 vectors are zero: expected vectors that an encoder has made"),
    Mistake("half of the text vectors are zero", vectors(np.where(np.arange(COUNT)[:, None] % 2, ZEROS, SOME)), "6 of 12 text vectors are zero", 0),
    Mistake("one text vector for all", vectors(ONES), "all 12 text vectors are equal", 0),
]  # fmt: skip

COMMANDS = [
    Mistake("a number with a unit", command("--prepare.max-bytes=10MB"), "'10MB' is not a whole number"),
    Mistake("a share with a percent sign", command("--prepare.max-bad=5%"), "'5%' is not a number"),
    Mistake("one dash", command("-stage=prepare"), "unexpected argument '-stage=prepare': options are given as --name=value"),
    Mistake("a negative number of pictures", prepare(None, "--prepare.max-images=-2"), "max_images is -2: expected at least 1"),
    Mistake("a share in percent", prepare(None, "--prepare.test-share=20"), "test_share is 20.0: expected a share from 0 to 0.5"),
    Mistake("all points for validation", prepare(None, "--prepare.validation-share=1"), "validation_share is 1.0: expected a share from 0 to 0.5"),
    Mistake("no threads", prepare(None, "--threads=0"), "expected a whole number >= 1"),
    Mistake("one mean for three channels", command("--prepare.mean=0.5"), "expected 3 values after it"),
    Mistake("a seed with a fraction", command("--seed=1.5"), "'1.5' is not a whole number"),
    Mistake("an option without its stage", command("--columns", "id=ASIN"), "did you mean --prepare.columns?"),
    Mistake("a filter that is none", command("--filter=none"), "--filter=none: expected one of "),
    Mistake("sizes of built-in data with data", prepare(None, "--num-labels=100"), "sizes are of built-in data"),
    Mistake("data from an unset variable", command("--data="), "--data is empty: expected a value after it"),
    Mistake("a run's folder from an unset variable", command("--workdir="), "--workdir is empty: expected a value after it"),
    Mistake("an empty value of its own", command("--data", ""), "--data is empty: expected a value after it"),
    Mistake("a name from an unset variable", command("--name="), "--name is empty"),
    Mistake("a preset from an unset variable", command("--preset="), "--preset is empty"),
    Mistake("a folder of pictures from an unset variable", command("--prepare.images="), "--prepare.images is empty"),
    Mistake("a checkpoint from an unset variable", command("--model.text-checkpoint="), "--model.text-checkpoint is empty"),
    Mistake("vectors from an unset variable", command("--prepare.text-vectors="), "--prepare.text-vectors is empty"),
    Mistake("a teacher from an unset variable", command("--pretrain.teacher="), "--pretrain.teacher is empty"),
    Mistake("a run to refit from an unset variable", command("--refit-of="), "--refit-of is empty"),
    Mistake("data of the command embed from an unset variable", lambda folder: embed.main(["--data=", "--out=x", "--text-checkpoint=y"]), "--data is empty"),
    Mistake("pictures of the command img_bin from an unset variable", lambda folder: img_bin.main(["--data=x", "--pictures="]), "--pictures is empty"),
    Mistake("the help on presets", lambda folder: amazon_help(), "miniature without --data; with it catalogue", 0),
]  # fmt: skip

RUNS = [
    Mistake("a folder where nothing can be made", prepare(None, "--workdir=/proc/run"), "/proc/run cannot be made (No such file or directory); choose another --workdir"),
    Mistake("a run's folder that is a link to nothing", prepare(lambda raw: (good(raw), raw.with_name("run").symlink_to("gone")), "--stage=prepare"), "run is a link to gone, which is gone"),
    Mistake("a folder under a link to nothing", prepare(lambda raw: (good(raw), raw.with_name("run").symlink_to("gone")), "--workdir=RUN/x"), "run is a link to gone, which is gone"),
    Mistake("a name that is too long", prepare(None, f"--workdir=RUN/{'x' * 300}"), "expected names of at most 255 bytes"),
    Mistake("data with a name that is too long", command(f"--data={'x' * 300}"), "expected names of at most 255 bytes"),
    Mistake("the folder of a stage as the run's", lambda folder: (finished(folder), command("--workdir=RUN/finetune")(folder))[1], "run/finetune is the folder of a stage: expected the run's, "),
    Mistake("the run's folder as the data", lambda folder: (finished(folder), prepare(None, "--data=RUN", "--workdir=RUN/../other")(folder))[1], "run holds finetune, prepare, run.json: expected raw_data/"),
    Mistake("the last stage alone", prepare(None, "--stage=evaluate"), "stage evaluate needs prepare, which is not finished in"),
    Mistake("the last stage after the first", after_prepare("--stage=evaluate"), ": run --stage=pretrain first or --stage=all"),
    Mistake("an option of another value in the same folder", after_prepare("--prepare.max-tokens=9"), "(max_tokens: 8 -> 9): give those by --prepare.max-tokens, choose another --workdir"),
    Mistake("a checkpoint of texts for pictures", prepare(None, f"--model.image-checkpoint={GOLDEN / 'minilm'}"), "model_type is 'bert'; expected one that encodes images"),
]  # fmt: skip

CODE = [
    Mistake("a dict instead of an experiment", calls(lambda folder: unchecked(mufin.run)({"data": "x"}, stage="prepare")), "experiment: found dict; expected an Experiment"),
    Mistake("the path of the data instead of an experiment", calls(lambda folder: unchecked(mufin.run)("catalogue")), "experiment: found str; expected an Experiment"),
    Mistake("a dict instead of a configuration", calls(lambda folder: built(Experiment, prepare={"filter": "self"})), "prepare: found dict; expected a PrepareConfig"),
    Mistake("a number in quotes", calls(lambda folder: built(Experiment, seed="1")), "seed='1': expected a whole number, found str"),
    Mistake("a shortlist with a fraction", calls(lambda folder: built(PredictConfig, shortlist=2.5)), "predict.shortlist=2.5: expected a whole number"),
    Mistake("a mix in quotes", calls(lambda folder: built(PredictConfig, mix="0.7")), "predict.mix='0.7': expected a number"),
    Mistake("a predictor with a dict as its settings", calls(lambda folder: unchecked(load_run)(finished(folder), None, {"mix": 1}, False, None)), "config: found dict; expected a PredictConfig"),
    Mistake("a number of items in quotes", calls(lambda folder: unchecked(warm_up)(None, "256", 0, 0, 1)), "points='256': expected a whole number of at least 1"),
    Mistake("fewer than no pictures", calls(lambda folder: unchecked(warm_up)(None, 1, -1, 0, 1)), "images=-1: expected a whole number of at least 0"),
    Mistake("other runs as one text", calls(lambda folder: unchecked(mufin.run)(Experiment(), others="runs/a")), "others: found str; expected a list of folders"),
    Mistake("an empty checkpoint in code", calls(lambda folder: newcomers.minute.ModelConfig(text_checkpoint="")), "text_checkpoint='': expected"),
    Mistake("a predictor of the stage's folder", calls(lambda folder: mufin.Predictor.load(finished(folder) / "finetune")), "run/finetune is a part of a run: give the run's folder, "),
    Mistake("a predictor of the prepared folder", calls(lambda folder: mufin.Predictor.load(finished(folder) / "prepare")), "run/prepare is a part of a run: give the run's folder, "),
    Mistake("a predictor of a file", calls(lambda folder: mufin.Predictor.load(finished(folder) / "run.json")), "run/run.json is a part of a run: give the run's folder, "),
    Mistake("a predictor of the folder of all runs", calls(lambda folder: mufin.Predictor.load(finished(folder).parent)), "the run is in the folder run: give "),
    Mistake("a predictor of no folder", calls(lambda folder: mufin.Predictor.load(folder / "x")), "x: no such folder"),
    Mistake("a data set of the run's folder", calls(lambda folder: mufin.Dataset.load(finished(folder))), "run is a run's folder: give the prepared one, "),
    Mistake("a data set of another stage", calls(lambda folder: mufin.Dataset.load(finished(folder) / "finetune")), "run/finetune is a stage's folder: give the prepared one, "),
    Mistake("a data set of raw data", calls(lambda folder: mufin.Dataset.load(folder)), "has no manifest.json: not prepared"),
    Mistake("a query that is a text", calls(lambda folder: read_query("wall shelf")), "items: found str; expected a list of dicts"),
    Mistake("a query that is one item", calls(lambda folder: read_query({"title": "wall shelf"})), "items: found dict; expected a list of dicts"),
    Mistake("a field in a capital letter", calls(lambda folder: read_query([{"Title": "x"}])), "unknown field 'Title'; expected id, title"),
    Mistake("a title that is a number", calls(lambda folder: read_query([{"title": 123}])), "title: found int 123; expected a text"),
    Mistake("no answers wanted", calls(lambda folder: check_k(0, 100)), "k=0: expected a whole number from 1"),
    Mistake("a number of answers in quotes", calls(lambda folder: check_k("5", 100)), "k='5': expected a whole number from 1"),
    Mistake("ids to leave out in lists", calls(lambda folder: read_ids([["B00"]], "exclude")), "expected an id: a text or a whole number"),
]  # fmt: skip

MISTAKES = [*TABLES, *PRODUCTS, *FOLDERS, *PICTURES, *VECTORS, *COMMANDS, *RUNS, *CODE]
