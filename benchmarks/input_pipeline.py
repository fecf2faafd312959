"""Can the input keep up with the training step, and with a PyTorch DataLoader?

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --short

A catalogue of made-up photographs (500 pixels, JPEG) is prepared like a user's. It is then read
back in three ways: from the user's JPEGs (what preparation does, once), from the prepared JPEGs
(what training does if the pixels exceed `image_array_gb`), and from images.npy (what training does
otherwise: the default). Lines `... against a DataLoader` time the same pictures into batches of
uint8 with as many workers: threads on our side, processes of torch.utils.data (Pillow) on theirs.

Lines `... against the step` compare demand with supply: `ratio` is the images a second that a step
of Module I at the preset `paper` can use, over those that its batches deliver through Loader and
prefetch. Above 1, training would wait for its input. The step's rate follows from its FLOP: 10.39
GFLOP an image (ViT-B/32 forward, the last block backward), at the speed that the same encoder
sustains forward on this machine. If the tokens below the last block are kept, it is 0.39.
"""

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import cores, in_turn, line, ratio, significant
from PIL import Image

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.images import decode_jpeg, encode_jpeg, read_image
from mufin_jax.data.loader import Loader, prefetch
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.sources import TrunkStates

PICTURE, BATCH = 500, 32
STEP_GFLOP, CACHED_GFLOP = 10.39, 0.39
"""Work of a step of Module I per image; the second where the frozen trunk's tokens are kept."""
SEEDS = 8


def photograph(rng: np.random.Generator, side: int = PICTURE) -> Image.Image:
    """Return smooth blotches with a little grain: about as many bytes as a photograph."""
    blotches = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(blotches.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 6, (side, side, 1)).astype(np.float32)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def write_catalogue(folder: Path, products: int) -> list[Path]:
    """Write a catalogue of JSON lines, five distinct pictures a product; return their files."""
    (folder / "images").mkdir(parents=True)
    base = [np.asarray(photograph(np.random.default_rng(seed))) for seed in range(SEEDS)]
    lines, files = [], []
    for i in range(products):
        names = []
        for k in range(5):
            number = 5 * i + k
            file = folder / "images" / f"{number}.jpg"
            pixels = np.roll(base[number % SEEDS], 7 * number, axis=1)  # no two files are alike
            Image.fromarray(pixels).save(file, "JPEG", quality=90)
            names.append(f"images/{file.name}")
            files.append(file)
        also = [f"B{(i + step) % products}" for step in (1, 2, 3)]
        lines.append(
            json.dumps({"ASIN": f"B{i}", "title": f"shelf {i}", "images": names, "also_buy": also})
        )
    (folder / "products.jsonl").write_text("\n".join(lines))
    return files


def prepared(source: Path, out: Path, size: int, array: bool) -> tuple[Dataset, float]:
    """Prepare the catalogue, with images.npy or only with records; return it and the seconds."""
    config = PrepareConfig(image_size=size, records=not array)
    if not array:
        config = PrepareConfig(image_size=size, image_array_gb=0.0)
    start = time.perf_counter()
    prepare(config, source, out)
    seconds = time.perf_counter() - start
    return Dataset.load(out), seconds


def ours(read: Callable[[int], np.ndarray], count: int) -> Callable[[], None]:
    """Return a call that makes batches of pictures ahead, in threads as training does."""

    def batch(i: int) -> np.ndarray:
        return np.stack([read(n) for n in range(i * BATCH, (i + 1) * BATCH)])

    def call() -> None:
        for made in prefetch(batch, 0, count // BATCH, cores()):
            assert made.shape[0] == BATCH

    return call


def theirs(read: Callable[[int], np.ndarray], count: int) -> Callable[[], None] | None:
    """Return a call that makes the same batches with a DataLoader; None without torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Pictures(Dataset):
        def __len__(self) -> int:
            return count // BATCH * BATCH

        def __getitem__(self, i: int) -> torch.Tensor:
            return torch.from_numpy(read(i))

    loader = DataLoader(
        Pictures(), BATCH, num_workers=cores(), persistent_workers=True, prefetch_factor=2,
        multiprocessing_context="fork",  # JAX's threads come later in this script
    )  # fmt: skip

    def call() -> None:
        for made in loader:
            assert made.shape[0] == BATCH

    return call


def opened_by_pillow(encoded: Path | bytes, size: int) -> np.ndarray:
    """Decode, resize with its proportions, centre on white: by hand, as PyTorch users do."""
    import io

    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
        image = image.convert("RGB")
    scale = size / max(image.size)
    if scale != 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        square = Image.new("RGB", (size, size), (255, 255, 255))
        small = image.resize((width, height), Image.Resampling.BILINEAR)
        square.paste(small, ((size - width) // 2, (size - height) // 2))
        image = square
    return np.array(image)


def against(
    name: str,
    our_read: Callable[[int], np.ndarray],
    their_read: Callable[[int], np.ndarray],
    count: int,
    rounds: int,
) -> tuple[float, Callable[[], object]]:
    """Return our images a second, and a function that prints the line of the comparison."""
    sides = {"ours": ours(our_read, count)}
    if their_call := theirs(their_read, count):
        sides["theirs"] = their_call
    times, images = in_turn(sides, rounds, warm_up=1), count // BATCH * BATCH
    rates = {side: significant(1e3 * images / found.ms) for side, found in times.items()}
    if their_call is None:
        said = f"{name}: {rates['ours']} images a second (a DataLoader needs the extra bench)"
        return rates["ours"], lambda: print(said)
    return rates["ours"], lambda: line(
        f"input: {name}, against a DataLoader", ratio(times["ours"], times["theirs"]), 1.0,
        images=images, workers=cores(), images_per_second=rates,
        ours=times["ours"].facts(), theirs=times["theirs"].facts(),
    )  # fmt: skip


def batches_a_second(
    dataset: Dataset, batch_size: int, steps: int, kept: np.ndarray | None = None
) -> float:
    """Return the images a second in the batches of Module I, through Loader and prefetch.

    Args:
        dataset: a prepared folder.
        batch_size: labels of a batch.
        steps: batches that are made.
        kept: what replaces the pixels of each image.
    """
    from mufin_jax.training.pretrain_batches import Batches, PretrainConfig

    loader = Loader(dataset)
    if kept is not None:
        loader = loader.with_sources(images=TrunkStates(kept))
    batches = Batches(PretrainConfig(batch_size=batch_size), dataset, loader, seed=0)
    images = 0
    for made in prefetch(batches, 0, steps + 2, cores()):
        shown = made.pool.images.rows
        images += int(shown.any(tuple(range(1, shown.ndim))).sum())  # the rest is padding
    start = time.perf_counter()
    for _ in prefetch(batches, 0, steps + 2, cores()):
        pass
    return significant(images / (time.perf_counter() - start))


def tokens_on_disk(dataset: Dataset, path: Path) -> np.ndarray:
    """Return mapped float32 numbers in the shape of the tokens of ViT-B/32's trunk."""
    shape = (len(dataset.images), 50, 768)
    tokens = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    rng = np.random.default_rng(0)
    for row in tokens:
        row[:] = rng.standard_normal(row.shape, np.float32)
    tokens.flush()
    return np.asarray(np.lib.format.open_memmap(path, "r"))


def step_gflops(images: int = 16) -> float:
    """Return the GFLOP a second that ViT-B/32 sustains forward on this machine."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mufin_jax.encoders.vit import ViT, ViTConfig

    graphdef, state = nnx.split(ViT(ViTConfig.base_32(), nnx.Rngs(0)))
    encode = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    x = jnp.ones((images, 224, 224, 3))
    program = encode.lower(state, x).compile()
    analysis: Any = program.cost_analysis()
    times = in_turn({"forward": lambda: jax.block_until_ready(program(state, x))}, 5)
    return significant(analysis["flops"] / 1e6 / times["forward"].ms)


def main() -> None:
    """Read the flags, and print one line of JSON a case."""
    parser = argparse.ArgumentParser(description="What the input pipeline feeds.")
    parser.add_argument("--products", type=int, default=200, help="five pictures each")
    parser.add_argument("--short", action="store_true", help="fewer pictures and rounds")
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    products, rounds = (64, 3) if arguments.short else (arguments.products, 7)
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), products, rounds)


def run(folder: Path, products: int, rounds: int) -> None:
    """Time everything on a catalogue of this many products."""
    files = write_catalogue(folder / "raw", products)
    count = len(files)
    array, prepare_seconds = prepared(folder / "raw", folder / "array", 224, array=True)
    processing = array.processing
    pixels = np.load(folder / "array" / "images.npy", mmap_mode="r")
    found = {
        "500 px JPEG to 224": against(
            "500 px JPEG to 224",
            lambda i: read_image(files[i], processing),
            lambda i: opened_by_pillow(files[i], 224),
            count, rounds,
        )
    }  # fmt: skip
    for size in (224, 128):
        small = [np.asarray(Image.fromarray(image).resize((size, size))) for image in pixels]
        jpegs = [encode_jpeg(image) for image in small]
        name = f"prepared JPEG, {size} px"
        found[name] = against(
            name,
            lambda i, jpegs=jpegs: decode_jpeg(jpegs[i % count]),
            lambda i, jpegs=jpegs, size=size: opened_by_pillow(jpegs[i % count], size),
            4 * count, rounds,
        )  # fmt: skip
    order = np.random.default_rng(0).permutation(16 * count) % count
    found["images.npy"] = against(
        "images.npy", lambda i: pixels[order[i]], lambda i: pixels[order[i]].copy(),
        16 * count, rounds,
    )  # fmt: skip
    for _, say in found.values():  # starts JAX, after the workers were forked
        say()
    fed = {name: rate for name, (rate, _) in found.items()}
    records, _ = prepared(folder / "raw", folder / "records", 224, array=False)
    gflops = step_gflops()
    batch = max(2, products // 4)
    for name, dataset, kept, gflop in (
        ("images.npy", array, None, STEP_GFLOP),
        ("records, 224 px", records, None, STEP_GFLOP),
        ("tokens of the trunk", array, tokens_on_disk(array, folder / "tokens.npy"), CACHED_GFLOP),
    ):
        rate, needed = batches_a_second(dataset, batch, 4 * rounds, kept), gflops / gflop
        line(
            f"input: {name}, against the step", needed / rate, 1.0,
            needed_images_per_second=significant(needed), fed_images_per_second=rate,
            gflop_per_second=gflops, input_bound=needed > rate,
            ours_ms=significant(1e3 / rate), theirs_ms=significant(1e3 / needed),
            batch_labels=batch, prepare_images_per_second=significant(count / prepare_seconds),
            fed=fed,
        )  # fmt: skip


if __name__ == "__main__":
    main()
