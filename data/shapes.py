"""Draws scenes of shapes with exact boxes, for a data set that needs no download."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data.textures import draw_background, rgb, smooth_noise
from data.voc import VocObject

# Shapes are drawn this many times larger and reduced, which smooths the edges.
_OVERSAMPLING = 3
_MARGIN_PX = 10  # room for the shadow around a shape
_ATTEMPTS_PER_OBJECT = 15
# Most things have an upright position; with arbitrary rotations a small network needs far more
# pictures.
_TILT = np.radians(20)

# Shares of an object's pixels: of those in the picture, or of all.
_VISIBLE_IN_CROWD, _VISIBLE_ELSE = 0.3, 0.8
_IN_PICTURE_AT_LEAST = 0.4
_DIFFICULT_BELOW = 0.6
_WHOLE = 0.97
_DIFFICULT_SIDE_PX = 24


@dataclass(frozen=True)
class Scene:
    """A picture and its objects; boxes enclose the visible pixels, as in VOC."""

    image: Image.Image
    objects: tuple[VocObject, ...]


@dataclass(frozen=True)
class _Placed:
    """A shape cropped to the picture: opacity, depth inside the shape, shadow, and position."""

    name: str
    mask: np.ndarray  # float32 [height, width] in 0..1
    depth: np.ndarray  # likewise
    shadow: np.ndarray  # likewise
    window: tuple[slice, slice]  # rows and columns of the picture
    pixels_in_all: int

    @property
    def solid(self) -> np.ndarray:
        """The pixels that count as the object's: bool, same shape as `mask`."""
        return self.mask >= 0.5


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws up to five shapes over a texture; one scene in fifty has none."""
    width, height = (int(side) for side in rng.integers(200, 321, size=2))
    picture = draw_background(rng, width, height)
    wanted = 0 if rng.random() < 0.02 else int(rng.choice(5, p=(0.2, 0.3, 0.25, 0.15, 0.1))) + 1
    must_stay_visible = _VISIBLE_IN_CROWD if rng.random() < 0.1 else _VISIBLE_ELSE

    placed: list[_Placed] = []
    owners = np.zeros((height, width), np.uint8)  # number of the object visible at each pixel
    in_picture = np.zeros(wanted + 1, int)  # pixels of each object, by number
    for _ in range(wanted * _ATTEMPTS_PER_OBJECT):
        if len(placed) == wanted:
            break
        shape = _place(rng, width, height, crowded=wanted > 3)
        number = len(placed) + 1
        pixels = np.count_nonzero(shape.solid)
        covered = np.bincount(owners[shape.window][shape.solid], minlength=wanted + 1)
        visible = np.bincount(owners.ravel(), minlength=wanted + 1) - covered
        too_hidden = visible[1:number] < must_stay_visible * in_picture[1:number]
        if pixels < _IN_PICTURE_AT_LEAST * shape.pixels_in_all or too_hidden.any():
            continue
        owners[shape.window][shape.solid] = number
        in_picture[number] = pixels
        _paint(rng, picture, shape)
        placed.append(shape)

    drawn = np.clip(picture, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(drawn))
    objects = tuple(
        _describe(shape, owners == number, in_picture[number])
        for number, shape in enumerate(placed, start=1)
    )
    return Scene(image, objects)


def _place(rng: np.random.Generator, width: int, height: int, crowded: bool) -> _Placed:
    kind = rng.random()
    if kind < 0.03:
        share = rng.uniform(0.04, 0.07)
    elif kind < 0.13:
        share = rng.uniform(0.1, 0.2)
    else:
        share = rng.uniform(0.2, 0.4 if crowded else 0.6)
    name = str(rng.choice(list(OUTLINES)))
    mask = _draw_mask(rng, name, share * min(width, height))
    rows, columns = mask.shape
    # Most shapes lie inside; the rest may extend over the border.
    inside = rng.random() < 0.8
    top = _position(rng, rows, height, inside)
    left = _position(rng, columns, width, inside)
    blurred = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(3))
    depth = np.asarray(blurred, np.float32) / 255
    shadow = np.roll(depth, (4, 3), axis=(0, 1)) * (1 - mask)
    cut = (
        slice(max(-top, 0), min(rows, height - top)),
        slice(max(-left, 0), min(columns, width - left)),
    )
    window = (
        slice(max(top, 0), min(top + rows, height)),
        slice(max(left, 0), min(left + columns, width)),
    )
    in_all = int(np.count_nonzero(mask >= 0.5))
    return _Placed(name, mask[cut], depth[cut], shadow[cut], window, in_all)


def _position(rng: np.random.Generator, size: int, side: int, inside: bool) -> int:
    free = side - size + 2 * _MARGIN_PX
    if inside and free > 0:
        return int(rng.integers(free)) - _MARGIN_PX
    return int(rng.integers(-size // 2, side - size // 2))


def _draw_mask(rng: np.random.Generator, name: str, size_px: float) -> np.ndarray:
    """Draws a slightly rotated and stretched outline: float32 [height, width] in 0..1."""
    angle, stretch = rng.uniform(-_TILT, _TILT), np.sqrt(rng.uniform(0.75, 1.33))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    polygons = [(points * (stretch, 1 / stretch)) @ turn * size_px / 2 for points in OUTLINES[name]]
    low = polygons[0].min(axis=0) - _MARGIN_PX
    size = np.ceil(polygons[0].max(axis=0) + _MARGIN_PX - low).astype(int)
    width, height = (int(side) for side in size * _OVERSAMPLING)
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    # The first polygon is filled; a second one is its hole.
    for points, fill in zip(polygons, (255, 0), strict=False):
        draw.polygon([tuple(point) for point in (points - low) * _OVERSAMPLING], fill=fill)
    return np.asarray(canvas.reduce(_OVERSAMPLING), np.float32) / 255


def _paint(rng: np.random.Generator, picture: np.ndarray, shape: _Placed) -> None:
    """Paints shadow and shape into the picture, in place."""
    window = (slice(None), *shape.window)
    part = picture[window]
    rows, columns = shape.mask.shape
    hue, value = rng.random(), rng.uniform(0.6, 1.0)
    colour = rgb(hue, rng.uniform(0.6, 0.95), value)
    second = rgb(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.3, 0.9), value * 0.75)
    blend = smooth_noise(rng, columns, rows, int(rng.integers(1, 5)))
    light = 0.8 + 0.3 * np.linspace(1, 0, rows, dtype=np.float32)[:, np.newaxis]
    rim = 0.55 + 0.45 * np.clip(2 * shape.depth - 0.9, 0, 1)
    fill = (second + (colour - second) * blend) * (light * rim)
    part *= (1 - shape.mask) * (1 - 0.5 * shape.shadow)
    part += fill * shape.mask


def _describe(shape: _Placed, visible: np.ndarray, in_picture: int) -> VocObject:
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    top, bottom, left, right = (int(n) for n in (rows[0], rows[-1], columns[0], columns[-1]))
    visible_share = int(np.count_nonzero(visible)) / in_picture
    shorter_side_px = min(bottom - top, right - left) + 1
    return VocObject(
        name=shape.name,
        box_px=(left + 1, top + 1, right + 1, bottom + 1),
        difficult=visible_share < _DIFFICULT_BELOW or shorter_side_px < _DIFFICULT_SIDE_PX,
        truncated=in_picture < _WHOLE * shape.pixels_in_all,
        occluded=visible_share < _WHOLE,
    )


def _regular(corners: int, radius: float = 1.0, turn: float = 0.0) -> np.ndarray:
    angles = np.arange(corners) * 2 * np.pi / corners + turn
    return radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _star() -> np.ndarray:
    points = _regular(10)
    points[1::2] *= 0.45
    return points


def _cross() -> np.ndarray:
    arm = 0.3
    quarter = np.array([(arm, -1), (arm, -arm), (1, -arm)])
    turn = np.array([[0, 1], [-1, 0]])
    corners = [quarter]
    for _ in range(3):
        corners.append(corners[-1] @ turn)
    return np.concatenate(corners)


# Outlines of radius 1, and the hole of the ring.
OUTLINES = {
    "circle": (_regular(60),),
    "cross": (_cross(),),
    "ring": (_regular(60), _regular(60, 0.55)),
    "square": (_regular(4, turn=np.pi / 4),),
    "star": (_star(),),
    "triangle": (_regular(3),),
}
