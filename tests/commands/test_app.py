"""The command `mufin`: its help, its hints for wrong names, and what it imports."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mufin_jax import __main__, __version__
from mufin_jax.commands import predict
from mufin_jax.commands.app import COMMANDS, main
from mufin_jax.commands.parsing import parse
from mufin_jax.commands.predict import PredictCommand
from mufin_jax.data.dataset import Dataset
from mufin_jax.pipeline.embed import EmbedConfig
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.runtime import machine
from mufin_jax.runtime.errors import InputError


def test_help_imports_no_jax_no_numpy_and_no_parser():
    heavy = "{'jax', 'numpy', 'scipy', 'tyro', 'rich', 'experiments'}"
    code = (
        "import sys; from mufin_jax import __main__; sys.argv[1:] = ['--help']; __main__.main(); "
        f"sys.exit(repr(sorted({heavy} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[]\n" and "mufin predict runs/shop" in done.stdout


def test_help_without_a_command_lists_all_of_them(capsys):
    for arguments in ([], ["--help"], ["-h"], ["help"], ["--help-all"]):
        assert main(arguments, {}) == 0
        shown = capsys.readouterr().out
        assert all(f"mufin {name}" in shown and one.about in shown
                   for name, one in COMMANDS.items())  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_of_a_command_has_examples_and_fits_a_terminal(name, capsys):
    assert main([name, "--seed=1", "--help"], {}) == 0
    shown = capsys.readouterr().out
    assert f"mufin {name} " in shown and f"mufin {name} --help-all" in shown
    assert len(shown.splitlines()) <= 30 and max(map(len, shown.splitlines())) <= 100


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"], {}) == 0
    assert capsys.readouterr().out == f"mufin_jax {__version__}\n"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("predit", "did you mean mufin predict?"),
        ("Train", "did you mean mufin train?"),
        ("fit", "did you mean mufin train?"),
        ("recommend", "did you mean mufin predict?"),
        ("qqq", "see mufin --help"),
        ("--data=x", "expected the name of a command first; see mufin --help"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest_name(name, advice, capsys):
    assert main([name, "--k=1"], {}) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.endswith(f"{advice}\n")


@pytest.mark.parametrize(
    ("kind", "arguments", "line"),
    [
        (PredictCommand, [], "RUN is missing; see --help"),
        (PredictCommand, ["run", "--titel=x"],
         "unrecognized option --titel; did you mean --title?"),
        (PredictCommand, ["run", "--top-k=3"], "unrecognized option --top-k; did you mean --k?"),
        (PredictCommand, ["run", "--photo=x"],
         "unrecognized option --photo; did you mean --image?"),
        (PredictCommand, ["run", "-k", "x"], "--k: 'x' is not a whole number; see --help"),
        (EmbedConfig, ["--output=x"], "unrecognized option --output; did you mean --out?"),
        (EmbedConfig, ["--prepare.colums=x"],
         "unrecognized option --prepare.colums; did you mean --prepare.columns?"),
        (EmbedConfig, ["--out=x"], "--data is missing; see --help"),
    ],
)  # fmt: skip
def test_a_wrong_option_of_a_command_is_answered_in_one_line(kind, arguments, line):
    with pytest.raises(InputError) as error:
        parse(kind, arguments, "name")
    assert str(error.value) == line


def test_mufin_train_answers_as_the_experiment_does(capsys, monkeypatch):
    monkeypatch.setattr(machine, "share_memory_among_threads", lambda: None)
    monkeypatch.setattr(sys, "argv", ["mufin", "train", "--lr=1"])
    assert __main__.main() == 2
    assert capsys.readouterr().err == (
        "error: unrecognized option --lr; did you mean --pretrain.optimizer.rate or "
        "--finetune.optimizer.rate?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "found no item; expected one of --title or --image, --id, --items"),
        (["--title=a", "--id=b"], "found --title or --image and --id; expected one of"),
        (["--items=a.csv"], "--items=FILE and --out=FILE belong together: give both"),
        (["--id=a", "--out=a.csv"], "--items=FILE and --out=FILE belong together: give both"),
        (["--items=a.csv", "--out=b.csv", "--json"], "--explain and --json are for --title,"),
        (["--items=a.csv", "--out=b.csv", "--max-bad=5"], "--max-bad=5.0: expected a share"),
        (["--items=a.csv", "--out=b.xls"], "b.xls: expected a name that ends in .jsonl, .csv,"),
        (["--items=no.csv", "--out=b.csv"], "no.csv: no such file; expected items, a row each"),
        (["--id=a", "--exclude=no.txt"], "no.txt: no such file; expected a text file of ids"),
        (["--id=a"], "run: no such folder; expected the folder of a run"),
    ],
)
def test_wrong_use_of_predict_is_answered_in_one_line(arguments, line, capsys):
    assert main(["predict", "run", *arguments], {}) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {line}") and shown.count("\n") == 1


def test_a_file_of_answers_is_resumed_only_if_what_answers_is_the_same(tmp_path, monkeypatch):
    """Each small file that changes with the answers is a part of what the file was begun with."""
    run, asked = tmp_path / "run", []
    dataset = object.__new__(Dataset)  # nothing else of it is read
    object.__setattr__(dataset, "manifest", {"config": {"columns": ["id=sku"], "max_images": 3}})
    known = SimpleNamespace(check=print)
    fake = SimpleNamespace(
        config=PredictConfig(), known_items=known, predict=print, dataset=dataset
    )
    monkeypatch.setattr(predict.Predictor, "load", lambda _: fake)
    monkeypatch.setattr(predict, "answer_file", lambda *given: asked.append(given[4]))
    (tmp_path / "items.csv").write_text("sku,title\n1,lamp\n")
    (tmp_path / "ids.txt").write_text("a\n")

    def settings(*more):
        arguments = [str(run), f"--items={tmp_path}/items.csv", f"--out={tmp_path}/o.csv", *more]
        predict.run(arguments)
        return asked[-1]

    changing = (
        "prepare/manifest.json", "finetune/done.json", "finetune/predictor/index/index.json",
        "finetune/predictor/labels/manifest.json", "select/mixes.json", "catalogue/current",
    )  # fmt: skip
    before = settings()
    assert settings() == before and before["columns"].id == ("sku",)
    old = Path(__file__).parents[1] / "golden" / "runs" / "0.1.0"
    assert all((old / name).is_file() for name in changing if "/predictor/" in name)
    for name in changing:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
        assert settings() != before, name
        before = settings()
    for more in ("-k=3", f"--exclude={tmp_path}/ids.txt", f"--within={tmp_path}/ids.txt"):
        assert settings(more) != before, more
