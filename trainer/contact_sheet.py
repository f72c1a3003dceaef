"""Draws training pictures as the network gets them, for people to look at."""

import dataclasses
import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from data.errors import DataError, reason_of
from data.palette import class_colour, text_colour
from trainer.anchors import anchor_boxes
from trainer.boxes import to_corners
from trainer.config import TrainerConfig
from trainer.detector import detector_spec
from trainer.input_pipeline import TransformedRecords, count_records, training_batches
from trainer.matching import match

_log = logging.getLogger("ssd")

_TILE_PX = 300
_GAP_PX = 8
_CAPTION_PX = 24
_ANCHOR_ALPHA = 130
_FONT = ImageFont.load_default(size=13)


def draw_contact_sheet(
    shards: Sequence[str],
    records: TransformedRecords,
    classes: Sequence[str],
    config: TrainerConfig,
    count: int,
    epoch: int = 0,
) -> Image.Image:
    """Draws the first `count` pictures of an epoch with objects (thick) and their anchors (thin).

    A picture's augmentation depends only on the seed, the epoch and the record's id, so a training
    with this configuration gets exactly these pixels and boxes, whatever its batch size.

    Args:
      shards: TFRecord files of the train split.
      records: a TransformedRecords that reads them.
      classes: names in the order of their ids 1..N.

    Raises:
      DataError: the shards or their pictures cannot be read.
    """
    spec = detector_spec(config).anchors
    num_records, _ = count_records(shards)
    anchors = anchor_boxes(spec)
    # Batches of one, so that an epoch starts with a new batch and rows need no padding.
    one = dataclasses.replace(config, batch_size=1, xla=False)
    examples = training_batches(
        shards, records, one, spec.image_size, num_records, first_step=epoch * num_records
    )
    count = min(count, num_records)
    try:
        shown = list(itertools.islice(examples.as_numpy_iterator(), count))
    except tf.errors.OpError as error:
        raise DataError(
            f"{Path(shards[0]).parent}: a picture cannot be read ({reason_of(error.message)}). "
            "`ssd run` with the same --data names it before training"
        ) from error
    if not any(labels.size for _, _, labels in shown):
        _log.warning(
            "none of these pictures shows an object of the schema's classes (%s). Is it the schema "
            "of these records?",
            ", ".join(classes),
        )
    tiles = [
        _tile(image, boxes, labels, *_matched(boxes, labels, anchors, config.matching_iou), classes)
        for (image,), (boxes,), (labels,) in shown
    ]
    caption = (
        f"{count} of {num_records:,} pictures, epoch {epoch}, seed {config.seed}, augmentation "
        f"{config.augmentation}, {config.detector}; thick: objects, thin: matched anchors"
    )
    return _arrange(tiles, caption)


def _matched(
    boxes: np.ndarray, labels: np.ndarray, anchors: np.ndarray, matching_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Corner boxes and class ids of the anchors matched to an object."""
    (anchor_labels,), _ = match(boxes[None], labels[None], anchors, matching_iou)
    anchor_labels = np.asarray(anchor_labels)
    positive = anchor_labels > 0
    return np.asarray(to_corners(anchors))[positive], anchor_labels[positive]


def _tile(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    anchors: np.ndarray,
    anchor_labels: np.ndarray,
    classes: Sequence[str],
) -> Image.Image:
    """One picture, labelled with its classes and the number of its anchors."""
    pixels = Image.fromarray(np.clip(image.round(), 0, 255).astype(np.uint8))
    tile = pixels.resize((_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC)
    overlay = Image.new("RGBA", tile.size)
    draw = ImageDraw.Draw(overlay)
    for box, label in zip(anchors, anchor_labels, strict=True):
        draw.rectangle(_edges_px(box), outline=f"{class_colour(label)}{_ANCHOR_ALPHA:02x}")
    for box, label in zip(boxes, labels, strict=True):
        left, top, right, bottom = _edges_px(box)
        colour = class_colour(label)
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
        # Above the box where there is room, else inside it.
        corner = (left, top - 16 if top >= 16 else top)
        draw.rectangle(draw.textbbox(corner, classes[label - 1], font=_FONT), fill=colour)
        draw.text(corner, classes[label - 1], fill=text_colour(colour), font=_FONT)
    draw.text((4, _TILE_PX - 18), f"{len(anchors)} anchors", fill="white", font=_FONT,
              stroke_width=2, stroke_fill="black")  # fmt: skip
    return Image.alpha_composite(tile.convert("RGBA"), overlay).convert("RGB")


def _edges_px(box: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in the tile; edges outside it stay outside."""
    top, left, bottom, right = (round(float(side) * _TILE_PX) for side in box)
    return left, top, max(right - 1, left), max(bottom - 1, top)


def _arrange(tiles: list[Image.Image], caption: str) -> Image.Image:
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    step = _TILE_PX + _GAP_PX
    width = max(columns * step + _GAP_PX, math.ceil(_FONT.getlength(caption)) + 2 * _GAP_PX)
    sheet = Image.new("RGB", (width, rows * step + _GAP_PX + _CAPTION_PX), "white")
    ImageDraw.Draw(sheet).text((_GAP_PX, _GAP_PX), caption, fill="black", font=_FONT)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (_GAP_PX + column * step, _CAPTION_PX + _GAP_PX + row * step))
    return sheet
