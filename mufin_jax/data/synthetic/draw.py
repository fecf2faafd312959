"""The pictures of a miniature product: its kind as a shape, its hue and texture, but no theme.

A product on its own fills most of the picture. In a scene it is in front, on a floor, and its
companion is behind it, smaller but whole. Pose, size, light and background are random.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SHAPES = (
    *("circle", "square", "triangle", "star", "cross"),
    *("ring", "crescent", "heart", "hourglass", "bar"),
)
COLOURS = (  # by hue; two neighbours make a style
    *((206, 32, 38), (243, 128, 20)),
    *((240, 204, 30), (66, 156, 48)),
    *((28, 176, 180), (38, 74, 200)),
    *((112, 48, 168), (236, 92, 170)),
)
TEXTURES = ("plain", "stripes", "dots", "checks")
SUPERSAMPLING = 2


class Look(NamedTuple):
    """What a product looks like: indices into `SHAPES`, `COLOURS` and `TEXTURES`."""

    kind: int
    hue: int
    texture: int


def draw_picture(
    look: Look, companion: Look | None, size: int, rng: np.random.Generator
) -> Image.Image:
    """Draw an RGB picture of `size` x `size` pixels; with a companion it is a scene."""
    full = size * SUPERSAMPLING
    u = rng.random(16).tolist()
    shade = 150 + 85 * u[0]
    background = tuple(int(shade + 10 * (tint - 0.5)) for tint in u[1:4])
    canvas = Image.new("RGB", (full, full), background)
    light = 0.8 + 0.25 * u[4]
    turn = np.pi / 6 * (2 * u[5] - 1)
    if companion is None:
        radius = full * (0.3 + 0.13 * u[6])
        room = full / 2 - radius
        centre = (full / 2 + room * (2 * u[7] - 1), full / 2 + room * (2 * u[8] - 1))
        _place(canvas, look, centre, radius, turn, light, u[9:11])
        return canvas.reduce(SUPERSAMPLING)
    floor = tuple(int(channel * 0.8) for channel in background)
    canvas.paste(floor, (0, int(full * 0.55), full, full))
    side = 1 if u[7] < 0.5 else -1
    behind = (full * (0.5 + side * (0.24 + 0.03 * u[8])), full * (0.25 + 0.03 * u[11]))
    _place(canvas, companion, behind, full * (0.19 + 0.03 * u[12]), -turn, light, u[13:15])
    front = (full * (0.5 - side * (0.16 + 0.03 * u[6])), full * (0.66 + 0.03 * u[15]))
    _place(canvas, look, front, full * 0.28, turn, light, u[9:11])
    return canvas.reduce(SUPERSAMPLING)


def _place(canvas, look, centre, radius, turn, light, phase) -> None:
    """Draw one product on the canvas; `phase` in [0, 1)**2 shifts its texture."""
    reach = int(radius) + 2
    left, top = int(centre[0]) - reach, int(centre[1]) - reach
    box = (left, top, left + 2 * reach, top + 2 * reach)
    mask = Image.new("L", (2 * reach, 2 * reach))
    pen = ImageDraw.Draw(mask)
    cos, sin = radius * np.cos(turn), radius * np.sin(turn)
    rotation = np.array([[cos, sin], [-sin, cos]])
    for points, fill in _outline(look.kind):
        pen.polygon((points @ rotation + reach).ravel().tolist(), fill=fill)
    colour = tuple(min(255, int(channel * light)) for channel in COLOURS[look.hue])
    body = Image.new("RGB", mask.size, colour)
    if look.texture:
        pale = tuple(int(0.42 * channel + 0.58 * 250 * light) for channel in colour)
        body.paste(tuple(min(255, c) for c in pale), None, _pattern(look.texture, radius, phase))
    canvas.paste(body, box, mask)


def _pattern(texture: int, radius: float, phase) -> Image.Image:
    """Return a mask of the pale parts, large enough for a product of `radius`."""
    reach = int(radius) + 2
    step = max(4, round(radius * 0.44))
    tile = _tile(texture, step, 2 * reach + 2 * step)
    x, y = int(phase[0] * step), int(phase[1] * step)
    return tile.crop((x, y, x + 2 * reach, y + 2 * reach))


@cache
def _tile(texture: int, step: int, side: int) -> Image.Image:
    tile = Image.new("L", (side, side))
    pen = ImageDraw.Draw(tile)
    for x in range(0, side, step):
        if TEXTURES[texture] == "stripes":
            pen.rectangle((x, 0, x + 0.42 * step, side), fill=255)
            continue
        for y in range(0, side, step):
            if TEXTURES[texture] == "dots":
                pen.ellipse((x, y, x + 0.55 * step, y + 0.55 * step), fill=255)
            elif (x // step + y // step) % 2:
                pen.rectangle((x, y, x + step - 1, y + step - 1), fill=255)
    return tile


@cache
def _outline(kind: int) -> list[tuple[np.ndarray, int]]:
    """Return polygons in the unit circle, y down, in drawing order; fill 0 cuts out."""
    round_ = _regular(40)
    match SHAPES[kind]:
        case "circle":
            return [(0.92 * round_, 255)]
        case "square":
            return [(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.76, 255)]
        case "triangle":
            return [(_regular(3) + np.array([0, 0.12]), 255)]
        case "star":
            return [(_regular(10) * np.tile([1, 0.4], 5)[:, None], 255)]
        case "cross":
            across = np.array([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)]) * 0.92
            return [(across, 255), (across[:, ::-1], 255)]
        case "ring":
            return [(round_, 255), (0.56 * round_, 0)]
        case "crescent":
            return [(round_, 255), (0.84 * round_ + np.array([0.5, -0.16]), 0)]
        case "heart":
            t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            x = 16 * np.sin(t) ** 3
            y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
            return [(np.stack([x, -y - 2], 1) / 17, 255)]
        case "hourglass":
            top = np.array([(-0.74, -0.96), (0.74, -0.96), (0.1, 0), (-0.1, 0)])
            return [(top, 255), (-top, 255)]
        case _:
            return [(np.array([(-1, -0.32), (1, -0.32), (1, 0.32), (-1, 0.32)]) * 0.95, 255)]


def _regular(corners: int) -> np.ndarray:
    """Return corners on the unit circle, the first on top."""
    angle = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.sin(angle), -np.cos(angle)], 1)
