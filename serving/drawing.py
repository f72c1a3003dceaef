"""Draws detections on a picture: boxes, and labels that stay readable and inside the picture."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from data.errors import DataError
from data.palette import class_colour, text_colour

# Pictures with a longer side below this have no room for text, so they are enlarged.
_SMALLEST_DRAWING_PX = 300


def open_picture(path: Path, encoded: bytes | None = None) -> Image.Image:
    """Opens a picture as RGB, turned upright by its EXIF orientation.

    With `encoded`, its content, the path only names it.

    TensorFlow's decoders ignore the orientation, so a rotated picture must be re-encoded before it
    goes to a model (`serving.picture_files.read_picture`). Raises DataError if it is not a picture.
    """
    if encoded is None and not path.is_file():
        raise DataError(f"{path}: no such picture. Check the path.")
    source = path if encoded is None else io.BytesIO(encoded)
    try:
        with warnings.catch_warnings(), Image.open(source) as picture:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):
                return Image.fromarray((np.asarray(upright) // 256).astype(np.uint8)).convert("RGB")
            return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow's message for this one only shows the repr of its source.
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{path}: not a readable picture ({reason}). Give a complete JPEG or PNG file."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: too large to draw ({error}). Scale the picture down.") from error


def draw_detections(
    image: Image.Image,
    boxes: np.ndarray,
    class_ids: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float],
) -> Image.Image:
    """Draws boxes with their names and scores on a copy of the picture.

    Args:
      image: any size and mode; with a longer side below 300 px it is enlarged by a whole factor,
        so that text fits.
      boxes: [num_detections, 4], `ymin, xmin, ymax, xmax` in [0, 1].
      class_ids: class of each box, from 1; it selects the colour.
      names: class name of each box.
      scores: score of each box.

    Returns:
      RGB picture with the size of `image` or a multiple of it.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    if len({len(part) for part in (boxes, class_ids, names, scores)}) > 1:
        raise ValueError(
            f"{len(boxes)} boxes, {len(class_ids)} ids, {len(names)} names and {len(scores)} "
            "scores differ"
        )
    canvas = image.convert("RGB")
    factor = math.ceil(_SMALLEST_DRAWING_PX / max(canvas.size))
    if factor > 1:
        canvas = canvas.resize(
            (canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC
        )
    elif canvas is image:
        canvas = image.copy()
    draw = ImageDraw.Draw(canvas)
    side = math.sqrt(canvas.width * canvas.height)
    line_px = max(2, round(side / 250))  # also the space around a label's text
    # With a size, it is never the bitmap font.
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=max(12, round(side / 36))))

    boxes_px = [_box_px(box, canvas.size) for box in boxes]
    best_first = sorted(range(len(boxes)), key=lambda i: -scores[i])
    for i in reversed(best_first):
        draw.rectangle(boxes_px[i], outline=class_colour(class_ids[i]), width=line_px)
    placed: list[tuple[int, int, int, int]] = []
    for i in best_first:
        text = f"{names[i]} {scores[i]:.2f}"
        area = _place_label(text, font, line_px, boxes_px[i], canvas.size, placed)
        placed.append(area)
        colour = class_colour(class_ids[i])
        draw.rectangle(area, fill=colour)
        middle = (area[0] + line_px, (area[1] + area[3]) / 2)
        draw.text(middle, text, fill=text_colour(colour), font=font, anchor="lm")
    return canvas


def _box_px(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixel corners `left, top, right, bottom`, inclusive, inside the picture."""
    width, height = size
    ymin, xmin, ymax, xmax = np.clip(np.nan_to_num(box), 0.0, 1.0).tolist()
    left, top = min(round(xmin * width), width - 1), min(round(ymin * height), height - 1)
    return left, top, max(left, round(xmax * width) - 1), max(top, round(ymax * height) - 1)


def _place_label(
    text: str,
    font: ImageFont.FreeTypeFont,
    pad: int,
    box_px: tuple[int, int, int, int],
    size: tuple[int, int],
    placed: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """The label's area: above the box if that is free, else at the next free edge of the box."""
    # The font's height, so that labels are equally high with and without descenders.
    width = min(math.ceil(font.getlength(text)) + 2 * pad, size[0])
    height = min(sum(font.getmetrics()) + pad, size[1])
    tops = (box_px[1] - height, box_px[1], box_px[3], box_px[3] - height)
    areas = []
    for y in tops:
        x = min(max(box_px[0], 0), size[0] - width)
        y = min(max(y, 0), size[1] - height)
        areas.append((x, y, x + width - 1, y + height - 1))
    return next((area for area in areas if not any(_overlap(area, p) for p in placed)), areas[0])


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
