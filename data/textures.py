"""Backgrounds for the generated pictures, in muted colours that do not hide the shapes."""

import colorsys

import numpy as np
from PIL import Image


def draw_background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Draws clouds, waves, tiles or weave in two or three related colours.

    Returns:
        float32 [3, height, width], about 0..255.
    """
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](rng, width, height)
    hue, saturation = rng.random(), rng.uniform(0.08, 0.35)
    dark = rgb(hue, saturation, rng.uniform(0.25, 0.5))
    light = rgb(hue + rng.uniform(-0.12, 0.12), saturation, rng.uniform(0.6, 0.92))
    # Uneven light over the whole picture, and grain.
    shade = 0.8 + 0.4 * smooth_noise(rng, width, height, 2)
    grain = rng.standard_normal((height, width), np.float32) * np.float32(rng.uniform(1, 6))
    return (dark + (light - dark) * pattern) * shade + grain


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """The colour as float32 [3, 1, 1] in 0..255; the hue is in full turns."""
    colour = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return np.array(colour, np.float32)[:, np.newaxis, np.newaxis] * 255


def smooth_noise(rng: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    """Random values on a coarse grid, interpolated: float32 [height, width] in 0..1."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0, 1)


def _clouds(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    cells = int(rng.integers(3, 7))
    octaves = [smooth_noise(rng, width, height, cells * 2**n) / 2**n for n in range(4)]
    return sum(octaves) / 1.875


def _waves(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x, y = _turned_grid(rng, width, height)
    bend = smooth_noise(rng, width, height, 4) * rng.uniform(2, 6)
    grain = smooth_noise(rng, width, height, 24)
    waves = 0.5 + 0.5 * np.sin(x * 2 * np.pi / rng.uniform(14, 40) + bend)
    return 0.75 * waves + 0.25 * grain


def _tiles(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x, y = _turned_grid(rng, width, height)
    side = rng.uniform(22, 60)
    columns, rows = np.floor(x / side).astype(int), np.floor(y / side).astype(int)
    shades = rng.random((64, 64), dtype=np.float32)[rows % 64, columns % 64]
    joints = np.minimum(np.minimum(x % side, y % side) / 3, 1)
    return (0.25 + 0.5 * shades + 0.25 * smooth_noise(rng, width, height, 16)) * joints


def _weave(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x, y = _turned_grid(rng, width, height)
    step = rng.uniform(6, 14)
    threads = 0.5 + 0.25 * (np.sin(x * 2 * np.pi / step) + np.sin(y * 2 * np.pi / step))
    return 0.5 * threads + 0.5 * smooth_noise(rng, width, height, 6)


def _turned_grid(
    rng: np.random.Generator, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    angle = rng.uniform(0, np.pi)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine


_PATTERNS = (_clouds, _waves, _tiles, _weave)
