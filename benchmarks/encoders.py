"""Are our encoders as fast as those of `transformers`, and how far is either from the hardware?

    python benchmarks/encoders.py             # eager and torch.compile
    python benchmarks/encoders.py --short     # eager alone
    python benchmarks/encoders.py --small     # tiny encoders, in seconds

ViT-B/32 on 16 images of 224 pixels and DistilBERT-base on 16 texts of 32 tokens, in float32, one
call each, alternating. *Forward* counts everything from normalised images, or token ids, in the
framework's memory to the vectors: CLS after the final LayerNorm, the mean over the tokens. *Forward
and backward* counts the gradient of a weighted sum of the vectors by all weights; no optimizer.
Ours is one jitted call on weights that are an argument; theirs runs under inference_mode, or
`backward` with gradients set to None before it.

Our options `layers="scan"` and `remat` run too, with the seconds of compiling and the bytes that a
program holds in addition to its arguments. Each line also gives the operations that a side needs
(ours computes the last block of the ViT only for CLS; backward counts twice forward) and how many
it does a second. The *floor* is the time of the matrix products of the whole forward pass as plain
matrix products, in JAX and in torch, and their speed. Ratios are of median wall times, against
eager torch.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # as torch here; on a GPU the steps are raced

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from flops import Product, distilbert, flops, vit_head, vit_trunk
from measuring import cores, in_turn, line, ratio, significant
from torch_twin.model import TextEncoder
from torch_twin.sizes import FULL, SMALL, Size, write_checkpoints
from transformers import ViTModel

from mufin_jax.encoders.pretrained import load_image_encoder, load_text_encoder

ITEMS = 16
SCAN_AND_REMAT = {"layers": "scan", "remat": True}
LIMITS = {
    ("vit", "forward"): 0.85,
    ("distilbert", "forward"): 0.75,
    ("vit", "forward and backward"): 1.1,
    ("distilbert", "forward and backward"): 1.0,
}


class WholeViT(torch.nn.Module):
    """The ViT of `transformers`, trained as a whole, pooled at CLS."""

    def __init__(self, checkpoint: Path):
        super().__init__()
        self.vit = ViTModel.from_pretrained(checkpoint, add_pooling_layer=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (i, 3, h, w) to vectors."""
        return self.vit(images).last_hidden_state[:, 0]


@dataclasses.dataclass(frozen=True)
class Case:
    """An encoder on both sides, with the same inputs.

    Attributes:
        name: in LIMITS.
        ours: by option: our encoder, all with the same numbers.
        theirs: the encoder of `transformers`.
        inputs: ours, numpy.
        their_inputs: theirs.
        needed: products of our forward pass.
        whole: products of theirs.
    """

    name: str
    ours: dict[str, Any]
    theirs: torch.nn.Module
    inputs: tuple[np.ndarray, ...]
    their_inputs: tuple[torch.Tensor, ...]
    needed: list[Product]
    whole: list[Product]


def cases(folder: Path, size: Size) -> list[Case]:
    """Load both encoders on both sides, and draw their inputs."""
    rng = np.random.default_rng(0)
    vit = load_image_encoder(folder / "vit", dtype="float32")
    bert = load_text_encoder(folder / "distilbert", dtype="float32")
    side, longest = vit.config.image_size, min(32, bert.config.max_positions)
    images = rng.uniform(-1, 1, (ITEMS, side, side, 3)).astype(np.float32)
    tokens = rng.integers(1, bert.config.vocab, (ITEMS, longest)).astype(np.int32)
    lengths = np.full(ITEMS, longest, np.int32)
    trunk, texts = vit_trunk(vit.config, ITEMS), block_of_texts(bert.config, longest)
    ways = {"ours": {}, "ours, scan": {"layers": "scan"}, "ours, scan and remat": SCAN_AND_REMAT}
    ways = {name: {"dtype": "float32"} | how for name, how in ways.items()}
    options = {
        "vit": {name: load_image_encoder(folder / "vit", **how) for name, how in ways.items()},
        "distilbert": {
            name: load_text_encoder(folder / "distilbert", **how) for name, how in ways.items()
        },
    }
    return [
        Case(
            "vit",
            options["vit"],
            WholeViT(folder / "vit").eval(),
            (images,),
            (torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),),
            trunk + vit_head(vit.config, ITEMS),
            trunk + vit_head(vit.config, ITEMS, whole=True),
        ),
        Case(
            "distilbert",
            options["distilbert"],
            TextEncoder(folder / "distilbert").eval(),
            (tokens, lengths),
            (torch.from_numpy(tokens).long(), torch.ones(tokens.shape, dtype=torch.bool)),
            texts,
            texts,
        ),
    ]


def block_of_texts(config: Any, length: int) -> list[Product]:
    """Return the products of the texts, which are encoded together."""
    return [
        dataclasses.replace(product, m=product.m * ITEMS)
        if product.count <= 2
        else dataclasses.replace(product, count=product.count * ITEMS)
        for product in distilbert(config, [length])
    ]


def our_calls(
    encoder: Any, inputs: tuple[np.ndarray, ...], weights: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the compiled calls by name, and their compile times and memory."""
    graphdef, state = nnx.split(encoder)
    state = nnx.to_pure_dict(state)
    arrays = jax.block_until_ready(jax.device_put(inputs))

    def encode(state: Any, arrays: Any) -> jax.Array:
        return nnx.merge(graphdef, state)(*arrays)

    programs, facts = {}, {}
    backward = jax.grad(lambda state, arrays: (encode(state, arrays) * weights).sum())
    for name, function in (("forward", encode), ("forward and backward", backward)):
        lowered = jax.jit(function).lower(state, arrays)
        start = time.perf_counter()
        programs[name] = lowered.compile()
        facts[name] = {"compile_s": significant(time.perf_counter() - start)}
        if sizes := programs[name].memory_analysis():
            facts[name]["temporary_mb"] = significant(sizes.temp_size_in_bytes / 1e6)

    def caller(program: Any) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(program(state, arrays))

    return {name: caller(program) for name, program in programs.items()}, facts


def their_calls(
    encoder: torch.nn.Module, inputs: tuple[torch.Tensor, ...], weights: np.ndarray, compiled: bool
) -> dict[str, Callable[[], Any]]:
    """Return the calls of torch, by name."""
    call, factor = torch.compile(encoder) if compiled else encoder, torch.from_numpy(weights)

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return call(*inputs)

    def backward() -> None:
        encoder.zero_grad(set_to_none=True)
        (call(*inputs) * factor).sum().backward()

    return {"forward": forward, "forward and backward": backward}


def floor(products: list[Product], seconds: float = 0.3) -> dict[str, Any]:
    """Time each distinct product alone in both frameworks, and add them up."""
    counts: Counter[tuple[int, int, int, bool]] = Counter()
    for product in products:
        batched = product.count > 2  # one head of one item each: a batch of small products
        counts[product.m, product.k, product.n, batched] += product.count
    rng, spent = np.random.default_rng(0), {"jax": 0.0, "torch": 0.0}
    product_of = jax.jit(jnp.matmul)
    for (m, k, n, batched), count in counts.items():
        batch = (min(count, ITEMS * 12),) if batched else ()
        left, right = (rng.normal(size=(*batch, *s)).astype(np.float32) for s in ((m, k), (k, n)))
        ours, theirs = jax.device_put((left, right)), (torch.tensor(left), torch.tensor(right))
        sides = {
            "jax": lambda ours=ours: product_of(*ours).block_until_ready(),
            "torch": lambda theirs=theirs: torch.matmul(*theirs),
        }
        start = time.perf_counter()
        in_turn(sides, count=1, warm_up=1)
        rounds = max(3, min(50, int(seconds / (time.perf_counter() - start))))
        for side, times in in_turn(sides, count=rounds, warm_up=0).items():
            spent[side] += times.ms * count / (batch[0] if batched else 1)
    whole = flops(products)
    return {
        "gflop": significant(whole / 1e9),
        **{f"{side}_ms": significant(ms) for side, ms in spent.items()},
        **{f"{side}_gflops_a_second": significant(whole / ms / 1e6) for side, ms in spent.items()},
    }


def compare(case: Case, short: bool, count: int) -> None:
    """Time one encoder, and print its lines."""
    width = case.ours["ours"].config.width
    weights = np.random.default_rng(1).normal(size=(ITEMS, width)).astype(np.float32)
    sides, compiled_to = {}, {}
    for name, encoder in case.ours.items():
        if short and name != "ours":
            continue
        sides[name], compiled_to[name] = our_calls(encoder, case.inputs, weights)
    for name, compiled in (("eager", False), ("torch.compile", True))[: 1 if short else 2]:
        sides[name] = their_calls(case.theirs, case.their_inputs, weights, compiled)
    difference = np.abs(
        np.asarray(sides["ours"]["forward"]()) - sides["eager"]["forward"]().numpy()
    )
    bare = floor(case.whole)
    for part, factor in (("forward", 1), ("forward and backward", 3)):
        times = in_turn({name: calls[part] for name, calls in sides.items()}, count)
        facts = {}
        for name, taken in times.items():
            work = factor * flops(case.needed if name in case.ours else case.whole)
            reached = {"gflop": significant(work / 1e9)}
            reached["gflops_a_second"] = significant(work / taken.ms / 1e6)
            facts[name] = taken.facts() | reached | compiled_to.get(name, {}).get(part, {})
            print(f"{case.name}, {part}, {name}: {facts[name]}", flush=True)
        others = {
            f"ratio of {name}": ratio(taken, times["eager"])
            for name, taken in times.items()
            if name not in ("ours", "eager")
        }
        line(
            f"encoders: {case.name}, {part}",
            ratio(times["ours"], times["eager"]),
            LIMITS[case.name, part],
            **others,
            items=ITEMS,
            dtype="float32",
            largest_difference=significant(float(difference.max())),
            sides=facts,
            floor_of_forward=bare,
        )


def main() -> None:
    """Read the flags and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="leave torch.compile out")
    parser.add_argument("--small", action="store_true", help="tiny encoders, to try it out")
    parser.add_argument("--count", type=int, default=9, help="timed rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1 if arguments.small else cores())
    size = SMALL if arguments.small else FULL
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoints(Path(folder), size)
        for case in cases(Path(folder), size):
            compare(case, arguments.short, arguments.count)


if __name__ == "__main__":
    main()
