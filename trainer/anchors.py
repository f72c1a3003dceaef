"""Anchors (the paper's default boxes): layout, coordinates and the hash that identifies them."""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AnchorSpec:
    """Anchor layout of a detector; sizes and steps in pixels of the square network input.

    Each cell of map k gets a square of `min_sizes[k]`, a square of sqrt(min * max), and for each
    ratio r in `aspect_ratios[k]` boxes of shape r and 1/r with the area of the min square
    (SSD paper, section 2.2, with the sizes of its Caffe release). `extra_square_first` is the
    order of HiKapok/SSD.TensorFlow: extra square, min square, all r, then all 1/r. `clipped` limits
    centres and sizes to [0, 1], as amdegroot/ssd.pytorch does.
    """

    image_size: int
    feature_sizes: tuple[int, ...]
    steps: tuple[float, ...]
    min_sizes: tuple[float, ...]
    max_sizes: tuple[float, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    extra_square_first: bool = False
    clipped: bool = False

    def shapes(self, level: int) -> list[tuple[float, float]]:
        """(height, width) in pixels of each anchor in a cell of map `level`, in order."""
        small, large = self.min_sizes[level], self.max_sizes[level]
        extra = (small * large) ** 0.5
        ratios = self.aspect_ratios[level]
        if self.extra_square_first:
            ordered = [*ratios, *(1 / r for r in ratios)]
            squares = [(extra, extra), (small, small)]
        else:
            ordered = [value for r in ratios for value in (r, 1 / r)]
            squares = [(small, small), (extra, extra)]
        return squares + [(small / r**0.5, small * r**0.5) for r in ordered]

    def per_cell(self, level: int) -> int:
        """Number of anchors in each cell of map `level`."""
        return 2 + 2 * len(self.aspect_ratios[level])


_SIX_MAPS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))

SSD300 = AnchorSpec(
    image_size=300,
    feature_sizes=(38, 19, 10, 5, 3, 1),
    steps=(8, 16, 32, 64, 100, 300),
    min_sizes=(30, 60, 111, 162, 213, 264),
    max_sizes=(60, 111, 162, 213, 264, 315),
    aspect_ratios=_SIX_MAPS,
)

SSD300_CLIPPED = dataclasses.replace(SSD300, clipped=True)

SSD300_HIKAPOK = dataclasses.replace(
    SSD300,
    min_sizes=(30, 60, 112.5, 165, 217.5, 270),
    max_sizes=(60, 112.5, 165, 217.5, 270, 322.5),
    extra_square_first=True,
)

# SSD300's squares start at 30 px and miss half of all 20 px objects, which users' own pictures are
# full of. These start at 20 px and match more VOC objects too (docs/light.md).
SSD300_FINE = dataclasses.replace(
    SSD300,
    min_sizes=(20, 48, 96, 150, 210, 270),
    max_sizes=(48, 96, 150, 210, 270, 315),
)

SSD512 = AnchorSpec(
    image_size=512,
    feature_sizes=(64, 32, 16, 8, 4, 2, 1),
    steps=(8, 16, 32, 64, 128, 256, 512),
    min_sizes=(35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8),
    max_sizes=(76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6),
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)

# SSD300's smallest squares would need a map of 38 cells, which MobileNet's SSD does not have. Sizes
# as in MobileNetV2 (section 6.2) and TensorFlow Object Detection: 20 % to 95 % of the side.
SSD300_COARSE = AnchorSpec(
    image_size=300,
    feature_sizes=(19, 10, 5, 3, 2, 1),
    steps=(16, 32, 64, 100, 150, 300),
    min_sizes=(60, 105, 150, 195, 240, 285),
    max_sizes=(105, 150, 195, 240, 285, 300),
    aspect_ratios=((2, 3),) * 6,
)

SSD128 = AnchorSpec(
    image_size=128,
    feature_sizes=(16, 8, 4, 2),
    steps=(8, 16, 32, 64),
    min_sizes=(14, 28, 52, 84),
    max_sizes=(28, 52, 84, 118),
    aspect_ratios=((2,), (2,), (2,), (2,)),
)


def anchor_boxes(spec: AnchorSpec) -> np.ndarray:
    """Anchors as centre boxes, float32 [num_anchors, 4]: cy, cx, height, width, relative.

    Ordered by map, row, column, then anchor within the cell, like the heads' outputs. As in the
    Caffe release, not clipped to the picture unless the layout says so.
    """
    levels = []
    for level, (size, step) in enumerate(zip(spec.feature_sizes, spec.steps, strict=True)):
        centre = (np.arange(size) + 0.5) * step / spec.image_size
        cy, cx = np.meshgrid(centre, centre, indexing="ij")
        shapes = np.array(spec.shapes(level)) / spec.image_size
        grid = np.stack([cy, cx], axis=-1)[:, :, None, :]
        cells = np.broadcast_to(grid, (size, size, len(shapes), 2))
        sizes = np.broadcast_to(shapes, (size, size, len(shapes), 2))
        levels.append(np.concatenate([cells, sizes], axis=-1).reshape(-1, 4))
    boxes = np.concatenate(levels).astype(np.float32)
    return np.clip(boxes, 0.0, 1.0) if spec.clipped else boxes


def anchors_hash(spec: AnchorSpec) -> str:
    """Fingerprint of the anchors; weights trained with a different one must be rejected."""
    rounded = np.round(anchor_boxes(spec).astype(np.float64), 5)
    return hashlib.sha256(rounded.tobytes()).hexdigest()[:16]
