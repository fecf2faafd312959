"""How well are labels found that training never saw, compared with when they are trained?

    python benchmarks/new_labels.py --hold-out --data=DATA --out=FEWER      # a tenth of labels less
    python -m experiments.amazon --data=DATA --workdir=RUNS/whole ...
    python -m experiments.amazon --data=FEWER --workdir=RUNS/fewer ...
    python benchmarks/new_labels.py --whole=RUNS/whole --fewer=RUNS/fewer --new=FEWER/new.jsonl

DATA is a catalogue in JSON lines with {trn,tst}_X_Y.txt. In FEWER, the held-out labels are no
training points either: they are products that nobody has bought yet. `new.jsonl` holds them as
items; with `--vectors=DIR` (text.npy, image.npy and their ids.txt) they bring ready vectors.

Both runs rank the test points; pairs (b, a) of a test point b, whose reverse (a, b) is in the
training data, are not scored. Added labels are measured as items that are related to the training
points that they were bought with, and as items that are not related, with and without what labels
of training lend them. Reports for the run that added the labels, and for the one that was trained
with them: R@10 of the new labels over the points that want any, R@10 and P@1 of all labels, and the
share of new labels among the best 10, next to their share of the relevant pairs: equal shares mean
that seen and unseen labels are well calibrated. `ratio` is 0.6 times R@10 of the new labels when
they are trained, over R@10 when they are added.
"""

import argparse
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from scipy.sparse import csr_matrix

from mufin_jax.prediction.items import Items
from mufin_jax.prediction.predictor import Predictor

GOAL = 0.6


def is_new(uid: str) -> bool:
    """Return whether a label is held out: a tenth of all ids."""
    return int(hashlib.sha1(f"new{uid}".encode()).hexdigest()[:8], 16) % 10 == 0


def hold_out(data: Path, out: Path) -> None:
    """Write a catalogue without the labels that are held out, and these to new.jsonl."""
    out.mkdir(parents=True)
    labels = (data / "lbl.jsonl").read_text("utf-8").splitlines()
    ids = [json.loads(line)["ASIN"] for line in labels]
    number = {label: n for n, label in enumerate(
        label for label, uid in enumerate(ids) if not is_new(uid))}  # fmt: skip
    for name, wanted in (("lbl", False), ("new", True)):
        kept = [line for line, uid in zip(labels, ids, strict=True) if is_new(uid) is wanted]
        (out / f"{name}.jsonl").write_text("\n".join(kept) + "\n", "utf-8")
    for side in ("trn", "tst"):
        points = (data / f"{side}.jsonl").read_text("utf-8").splitlines()
        kept = [i for i, line in enumerate(points)
                if side == "tst" or not is_new(json.loads(line)["ASIN"])]  # fmt: skip
        (out / f"{side}.jsonl").write_text("\n".join(points[i] for i in kept) + "\n", "utf-8")
        rows = (data / f"{side}_X_Y.txt").read_text("utf-8").split("\n")[1:]
        pairs = [[pair.split(":") for pair in rows[i].split()] for i in kept]
        left = [" ".join(f"{number[int(label)]}:{value}" for label, value in row
                         if int(label) in number) for row in pairs]  # fmt: skip
        header = f"{len(kept)} {len(number)}"
        (out / f"{side}_X_Y.txt").write_text("\n".join([header, *left]) + "\n", "utf-8")
    (out / "images").symlink_to((data / "images").resolve())


def rows_of(matrix: csr_matrix) -> list[np.ndarray]:
    """Return the columns that each row stores."""
    return np.split(matrix.indices, matrix.indptr[1:-1])


def items_of(path: Path, vectors: Path | None, bought: Collection[tuple[str, str]] = ()) -> Items:
    """Return the held-out labels as items to add, related to the training points they go with."""
    items: list[dict[str, Any]] = []
    related: dict[str, list[str]] = {}
    for point, label in sorted(bought):
        related.setdefault(label, []).append(point)
    found: dict[str, dict[str, np.ndarray]] = {}
    if vectors is not None:
        for kind in ("text", "image"):
            names = (vectors / f"{kind}.ids.txt").read_text("utf-8").splitlines()
            found[kind] = dict(zip(names, np.load(vectors / f"{kind}.npy"), strict=True))
    for line in path.read_text("utf-8").splitlines():
        facts = json.loads(line)
        item = {"id": facts["ASIN"], "title": facts["title"]}
        item["related"] = related.get(facts["ASIN"], [])
        if vectors is None:
            item["images"] = [path.parent / image for image in facts["images"]]
        for kind, field in (("text", "text_vector"), ("image", "image_vectors")):
            if facts["ASIN"] in found.get(kind, {}):
                item[field] = found[kind][facts["ASIN"]]
        items.append(item)
    return items


def ranked(predictor: Predictor) -> list[list[str]]:
    """Return the ids of the best labels of each test point."""
    test, answers = predictor.dataset.test, []
    catalogue, added = predictor.catalogue, predictor.added
    for rows, pool, bags in predictor.read(test):
        known = predictor.ranking and predictor.ranking.known_of(test, rows)
        labels, _ = predictor.rank(pool, bags, len(rows), 100, known=known, added=added)
        answers += [[catalogue.id_of(int(one)) for one in row if one >= 0] for row in labels]
    return answers


def measure(answers: list[list[str]], wanted: list[set[str]], apart: list[set[str]]) -> dict:
    """Return the metrics of rankings of ids, in percent.

    Args:
        answers: of each test point, best first.
        wanted: the relevant labels.
        apart: labels that are not scored.
    """
    best = [[uid for uid in row if uid not in out][:10]
            for row, out in zip(answers, apart, strict=True)]  # fmt: skip
    wanted = [row - out for row, out in zip(wanted, apart, strict=True)]
    new = [{uid for uid in row if is_new(uid)} for row in wanted]

    def recall(some: list[set[str]]) -> float:
        pairs = zip(best, some, strict=True)
        return 100 * float(np.mean([len(own & set(row)) / len(own) for row, own in pairs if own]))

    first = [bool(row) and row[0] in own for row, own in zip(best, wanted, strict=True) if own]
    shown = np.mean([is_new(uid) for row, own in zip(best, wanted, strict=True) if own
                     for uid in row])  # fmt: skip
    relevant = [is_new(uid) for row in wanted for uid in row]
    found = {
        "new_R@10": recall(new), "R@10": recall(wanted), "P@1": 100 * np.mean(first),
        "new_shown": 100 * shown, "new_relevant": 100 * np.mean(relevant),
        "points": sum(map(bool, new)),
    }  # fmt: skip
    return {name: measuring.significant(float(value)) for name, value in found.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("data", "out", "whole", "fewer", "new", "vectors"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--hold-out", action="store_true")
    options = parser.parse_args()
    if options.hold_out:
        hold_out(options.data, options.out)
        return
    whole = Predictor.load(options.whole, catalogue=False)
    fewer = Predictor.load(options.fewer, catalogue=False)
    dataset = whole.dataset
    ids, test = list(dataset.labels.ids), dataset.test
    wanted = [{ids[label] for label in row} for row in rows_of(test.pairs)]
    bought = {
        (uid, ids[label])
        for uid, row in zip(dataset.train.ids, rows_of(dataset.train.pairs), strict=True)
        for label in row
    }
    apart = [{uid, *(label for label in own if (label, uid) in bought)}
             for uid, own in zip(test.ids, wanted, strict=True)]  # fmt: skip
    if list(fewer.dataset.test.ids) != list(test.ids):
        raise SystemExit("the two runs have other test points")
    found = {"trained": measure(ranked(whole), wanted, apart)}
    found["absent"] = measure(ranked(fewer), wanted, apart)
    usual, fewer.lenders = fewer.lenders, 0
    fewer.add_labels(items_of(options.new, options.vectors), save=False)
    found["lent nothing"] = measure(ranked(fewer), wanted, apart)
    fewer.lenders = usual
    fewer.change_to(fewer.catalogue)
    found["not related"] = measure(ranked(fewer), wanted, apart)
    fewer.update_labels(items_of(options.new, options.vectors, bought), save=False)
    found["added"] = measure(ranked(fewer), wanted, apart)
    ratio = GOAL * found["trained"]["new_R@10"] / max(found["added"]["new_R@10"], 1e-9)
    measuring.line("new_labels", ratio, 1.0, **found)


if __name__ == "__main__":
    main()
