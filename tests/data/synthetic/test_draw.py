"""The miniature catalogue's pictures show what they must show."""

import itertools

import numpy as np
from PIL import Image

from mufin_jax.data.synthetic import draw as draw_module
from mufin_jax.data.synthetic.draw import Look, draw_picture


def foreground(picture: Image.Image) -> np.ndarray:
    """The pixels that are coloured, as a 12 x 12 share of their bounding box."""
    pixels = np.asarray(picture, np.int32)
    mask = pixels.max(2) - pixels.min(2) > 40
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    box = Image.fromarray(mask[rows[0] :, columns[0] :][:side, :side].astype(np.uint8) * 255)
    canvas = Image.new("L", (int(side), int(side)))
    canvas.paste(box)
    return np.asarray(canvas.resize((12, 12), Image.Resampling.BOX), np.float32).ravel()


def test_kinds_are_distinguishable_at_32_pixels():
    rng = np.random.default_rng(5)

    def draw(number):
        kinds = np.repeat(np.arange(10), number)
        looks = [Look(int(k), int(rng.integers(8)), int(rng.integers(4))) for k in kinds]
        return kinds, np.stack([foreground(draw_picture(look, None, 32, rng)) for look in looks])

    (known, examples), (kinds, queries) = draw(60), draw(12)
    distance = (queries**2).sum(1)[:, None] + (examples**2).sum(1) - 2 * queries @ examples.T
    assert (known[distance.argmin(1)] == kinds).mean() >= 0.9


def test_hues_are_distinguishable_by_the_mean_colour_of_a_picture():
    rng = np.random.default_rng(6)
    colours = np.array(draw_module.COLOURS, float)
    colours /= np.linalg.norm(colours, axis=1, keepdims=True)
    right = []
    for hue, kind in itertools.product(range(8), range(10)):
        pixels = np.asarray(draw_picture(Look(kind, hue, 0), None, 32, rng), float)
        vivid = pixels[np.ptp(pixels, axis=2) > 60].mean(0)
        right.append((colours @ vivid).argmax() == hue)
    assert np.mean(right) >= 0.97


def test_a_scene_shows_product_and_companion_completely():
    look, companion = Look(0, 0, 0), Look(0, 5, 0)
    for seed in range(20):
        picture = draw_picture(look, companion, 64, np.random.default_rng(seed))
        pixels = np.asarray(picture, np.int32)
        red = pixels[..., 0] > pixels[..., 2] + 60
        blue = pixels[..., 2] > pixels[..., 0] + 60
        assert red.sum() > 1.3 * blue.sum() > 300
        for mask in (red, blue):
            assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
