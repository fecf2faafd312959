"""The command `mufin`: which subcommands there are, and what `--help` prints of each.

This file imports no JAX and no parser: `mufin --help` answers at once.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence

from mufin_jax import __version__
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.exit import main_guard

Run = Callable[[list[str]], object]
"""Runs a subcommand on the arguments after its name; an exit code may come back."""


@dataclasses.dataclass(frozen=True)
class Subcommand:
    """A subcommand, as `mufin --help` shows it.

    Attributes:
        about: what it does, in one line.
        help: what its own short --help prints: examples and the usual options.
        module: what defines its `run`; "" if the caller of `main` brings it.
        other_names: what people call it elsewhere.
    """

    about: str
    help: str
    module: str = ""
    other_names: tuple[str, ...] = ()


COMMANDS = {
    "train": Subcommand(
        "train on a catalogue of your own, or on the built-in one",
        """\
  mufin train                                         the built-in catalogue, minutes on a CPU
  mufin train --data=DIR --workdir=runs/shop          a catalogue of your own
  mufin train --data=products.csv --prepare.columns id=sku related=goes_with

The same command resumes a stopped run, and skips finished stages.

  --data=DIR|FILE       products.jsonl, .csv or .parquet with their pictures (docs/data.md)
  --workdir=DIR         the folder of the run
  --preset=NAME         another recipe, such as paper (default with --data: catalogue)
  --stage=NAME          one stage alone, such as prepare
  --redo=NAME           make a stage and those after it again
  --from=RUN            start from a finished run, on new data: a third of the steps
  --finetune.epochs=+N  train a finished run longer
  --prepare.columns id=NAME title=NAME images=NAME related=NAME
  --pretrain.epochs=N   --finetune.epochs=N   --seed=N""",
        other_names=("fit", "run", "finetune", "pretrain", "prepare"),
    ),
    "sample": Subcommand(
        "write a made-up shop to try the other commands on",
        """\
  mufin sample --to=shop                3,000 products in shop/products.csv, with photos
  mufin train --data=shop/products.csv --workdir=runs/shop

  --to=DIR              a new folder; it also gets new.csv, gone.txt and tomorrow.csv
  --products=N          (default 3000); --new=N and --gone=N that come and go (50 and 30)""",
        "mufin_jax.commands.sample",
        ("demo", "example", "generate"),
    ),
    "predict": Subcommand(
        "rank the labels of a finished run for items",
        """\
  mufin predict RUN --title="wall shelf, oak" --image=shelf.jpg -k 10
  mufin predict RUN --id=B00ABC                       a known product; never itself
  mufin predict RUN --items=in.jsonl --out=out.jsonl  also .csv, .parquet, and .gz
  mufin predict RUN --items=in.csv --out=out.csv --columns title=name images=photo

The same command resumes a stopped file, to the same bytes.

  --title=TEXT          repeat it for an item of several texts
  --image=FILE          repeat it for several pictures
  --id=ID               of a known product; repeat it for several
  -k N                  labels an item (default 10)
  --exclude=FILE        ids that nobody gets, one a line; --within=FILE the only ones
  --within=category=chair --within="price<=20"          fields that the run keeps (mufin labels)
  --explain             the parts of each score
  --json                JSON instead of a table
  --images=DIR          where the pictures of --items are, if not next to the file
  --max-bad=SHARE       tolerated share of bad rows (default 0.05)""",
        "mufin_jax.commands.predict",
        ("infer", "inference", "query", "recommend", "score", "answer", "rank"),
    ),
    "serve": Subcommand(
        "answer over HTTP by a finished run",
        """\
  mufin serve RUN                                     http://127.0.0.1:8000
  mufin serve RUN --host=0.0.0.0 --port=80 --probe-port=8081 --admin-token-file=token.txt
  curl localhost:8000/v1/predict -H "Content-Type: application/json" \\
      -d '{"items": [{"title": "wall shelf, oak"}], "k": 10}'

/readyz is 503 until all is loaded and compiled. /docs describes the routes, /metrics is for
Prometheus. SIGTERM ends the server gently.

  --admin-token-file=FILE   its token allows to add and remove labels; without, nobody can
  --image-hosts HOST ...    hosts from which pictures may be named by URL (default: none)
  --probe-port=N            /livez and /readyz alone, whatever the load
  --drain-delay=SECONDS     to go on after SIGTERM (default 5)
  --access-log              a line of JSON for each request""",
        "mufin_jax.commands.serve",
        ("server", "http", "api", "rest", "deploy", "host"),
    ),
    "labels": Subcommand(
        "add, update and remove labels of a finished run, without training",
        """\
  mufin labels RUN                      how many labels there are
  mufin labels RUN add new.jsonl        recommend more products from now on
  mufin labels RUN update changed.csv   replace products, by their ids
  mufin labels RUN remove ids.txt       recommend products no more: ids, one a line
  mufin labels RUN keep products.csv --fields category price    for --within of mufin predict
  mufin labels RUN rollback             return to the version before

A new product that names training products in its field of relations is found as if it had been
trained. Servers and `mufin predict` read the new version; nothing is changed if a row is bad.

  --columns title=NAME images=NAME related=NAME
  --images=DIR          a folder for the pictures""",
        "mufin_jax.commands.labels",
        ("catalogue", "catalog", "add", "remove", "delete", "update", "items", "products"),
    ),
    "export": Subcommand(
        "write a finished run as a small folder that answers alone",
        """\
  mufin export RUN --to=DIR
  mufin predict DIR --title="wall shelf, oak" --image=shelf.jpg -k 10
  mufin export DIR --check              compare its files with their checksums, its programs
                                        with its predictor

DIR answers as the run does, wherever it is moved to, and also read-only; `mufin labels DIR` works
as well. It has none of the data's pictures and texts.

  --to=DIR              the new folder
  --force               replace the export that is there
  --encoders            also write encoders/text and encoders/image, for transformers
  --programs            also write the model as StableHLO programs (pip install flatbuffers)
  --push-to-hub=USER/NAME   upload it to the hub of Hugging Face, as a private repository
  --public              ... as a public one""",
        "mufin_jax.commands.export",
        ("save", "pack", "package", "bundle", "dump", "publish", "push"),
    ),
    "compare": Subcommand(
        "compare finished runs on the same test points",
        """\
  mufin compare runs/a runs/b
  mufin compare runs/a runs/b runs/c --out=page.html

Each run is compared with the first: metrics with intervals of the difference, test points won and
lost, settings that differ, and costs.

  --out=FILE.html       the ten largest wins and losses, with pictures and titles
  --json                JSON instead of tables""",
        "mufin_jax.commands.compare",
        ("diff", "versus", "vs", "benchmark"),
    ),
    "embed": Subcommand(
        "write ready vectors of a catalogue by checkpoints",
        """\
  mufin embed --data=DIR --out=OUT --text-checkpoint=intfloat/e5-small-v2
  mufin train --data=DIR --prepare.text-vectors=OUT/text

The same command resumes a stopped one.

  --data=DIR                the catalogue (docs/data.md)
  --out=OUT                 gets text/ and image/
  --text-checkpoint=NAME    a folder, or a name on the hub
  --image-checkpoint=NAME""",
        "mufin_jax.commands.embed",
        ("encode", "vectors", "describe"),
    ),
}
"""The subcommands by name."""

_FULL = "--help-all"


def main(arguments: Sequence[str], runs: Mapping[str, Run]) -> int:
    """Run what the arguments say and return the exit code.

    Args:
        arguments: those after the name of the command.
        runs: the subcommands that have no module, by name.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return _print(overview())
    if arguments[0] == _FULL:
        helps = (f"mufin {name}: {one.about}\n\n{one.help}" for name, one in COMMANDS.items())
        return _print("\n\n\n".join([overview(), *helps]))
    if arguments[0] in ("--version", "version"):
        return _print(f"mufin_jax {__version__}")
    name, *rest = arguments
    if name in COMMANDS and ("--help" in rest or "-h" in rest):
        return _print(short_help(name))
    if name not in COMMANDS:
        return main_guard(lambda: _reject(name))
    rest = ["--help" if one == _FULL else one for one in rest]
    if name in runs:
        code = runs[name](rest)
        return code if isinstance(code, int) else 0
    return main_guard(lambda: importlib.import_module(COMMANDS[name].module).run(rest))


def _print(text: str) -> int:
    return main_guard(lambda: print(text))


def overview() -> str:
    """Return what `mufin --help` prints."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  mufin {name:{width}}  {one.about}" for name, one in COMMANDS.items())
    return f"""\
mufin_jax {__version__}: multi-modal extreme classification, from training to answers

{listed}

  mufin train --data=shop --workdir=runs/shop
  mufin predict runs/shop --title="wall shelf, oak" -k 10

mufin COMMAND --help has examples, mufin COMMAND {_FULL} has every option."""


def short_help(name: str) -> str:
    """Return what `mufin NAME --help` prints."""
    one = COMMANDS[name]
    return f"mufin {name}: {one.about}\n\n{one.help}\n\nEvery option: mufin {name} {_FULL}"


def _reject(name: str) -> None:
    """Raise InputError for a subcommand that does not exist, with the nearest name."""
    if name.startswith("-"):
        raise InputError(f"{name}: expected the name of a command first; see mufin --help")
    called = {other: known for known, one in COMMANDS.items() for other in one.other_names}
    called |= {known: known for known in COMMANDS}
    nearest = difflib.get_close_matches(name.lower(), called, 1, 0.6)
    advice = f"did you mean mufin {called[nearest[0]]}?" if nearest else "see mufin --help"
    raise InputError(f"{name!r:.80} is no command of mufin ({', '.join(COMMANDS)}); {advice}")
