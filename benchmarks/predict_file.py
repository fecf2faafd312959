"""Is a file answered as fast as the predictor answers batches in memory?

    python benchmarks/predict_file.py RUN                    100,000 titles, RUN is a finished run
    python benchmarks/predict_file.py RUN --count=10000

The titles are those of the run's labels, each with a number, so that no two are equal. `ratio` is
the time of `mufin predict RUN --items=... --out=...`, without loading the run, over that of
`Predictor.predict` on the same items. Both answer in turn, three times, in one process.
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from pathlib import Path

import measuring

from mufin_jax.data.readers.fields import Columns
from mufin_jax.prediction.item_files import ItemFile
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.prediction.stream import answer_file

LIMIT = 1 / 0.9


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description="A file of items beside a list in memory.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    predictor = Predictor.load(arguments.run)
    titles = predictor.dataset.labels.titles
    items = [{"title": f"{titles[i % len(titles)]} {i}"} for i in range(arguments.count)]
    answer = functools.partial(predictor.predict, k=10)
    answer(items[:2048])
    rates: dict[str, list[float]] = {"file": [], "list": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "items.jsonl")
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        for number in range(arguments.times):
            source = ItemFile(path, Columns())
            reader = source.reader(predictor.dataset, predictor.known_items.check)
            start = time.perf_counter()
            answer_file(source, Path(folder, f"{number}.jsonl"), reader, answer, {})
            rates["file"].append(len(items) / (time.perf_counter() - start))
            start = time.perf_counter()
            answer(items)
            rates["list"].append(len(items) / (time.perf_counter() - start))
            print({name: round(some[-1], 1) for name, some in rates.items()}, flush=True)
    ratio = max(rates["list"]) / max(rates["file"])
    measuring.line("predict_file", ratio, LIMIT, count=len(items), rates=rates)


if __name__ == "__main__":
    sys.exit(main())
