"""Collects ground truth and detections of many pictures, in any order and partition."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from data.errors import DataError
from metrics.boxes import box_area


class Columns(NamedTuple):
    """Ground truth and detections of some pictures, one row per box, grouped by picture.

    Rows keep their order within a picture. `gt_image` and `det_image` index `image_ids`;
    `gt_class` and `det_class` index the accumulator's class names. Boxes are float64
    `ymin, xmin, ymax, xmax`: float32 products could move an IoU of exactly 0.5 across the
    threshold.
    """

    image_ids: np.ndarray  # str [images]
    gt_image: np.ndarray  # int64 [ground truths]
    gt_class: np.ndarray  # int32 [ground truths]
    gt_difficult: np.ndarray  # bool [ground truths]
    gt_crowd: np.ndarray  # bool [ground truths]
    gt_truncated: np.ndarray  # bool [ground truths]
    gt_occluded: np.ndarray  # bool [ground truths]
    gt_area: np.ndarray  # float64 [ground truths], in the square of the boxes' unit
    gt_box: np.ndarray  # float64 [ground truths, 4]
    det_image: np.ndarray  # int64 [detections]
    det_class: np.ndarray  # int32 [detections]
    det_score: np.ndarray  # float64 [detections]
    det_box: np.ndarray  # float64 [detections, 4]


class DetectionAccumulator:
    """Collects detections and ground truth for `voc.evaluate` and `coco.evaluate`.

    Keeps boxes rather than matches, so one accumulator serves every IoU threshold and protocol.
    Memory grows with objects, not pixels. Accumulators over the same classes merge in any order.
    The same image id may be added several times, as in bootstrap resampling: every `add` is a
    separate picture.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        """class_names: in index order.

        Raises:
            DataError: there are none, or one appears twice.
        """
        self.class_names = tuple(class_names)
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise DataError(f"class names must be distinct, and not empty: {class_names!r}")
        self._class_index = {
            key: index
            for index, name in enumerate(self.class_names)
            for key in (name, name.encode(), index)
        }
        self._parts: list[Columns] = []

    def add(self, *picture: Any, **options: Any) -> None:
        """Adds one picture; takes the same arguments as `picture`."""
        self.add_columns(self.picture(*picture, **options))

    def add_columns(self, columns: Columns) -> None:
        """Adds a picture made by `picture`, perhaps on another machine."""
        self._parts.append(columns)

    def picture(
        self,
        image_id: str,
        gt_boxes: ArrayLike,
        gt_classes: ArrayLike,
        gt_difficult: ArrayLike,
        det_boxes: ArrayLike,
        det_scores: ArrayLike,
        det_classes: ArrayLike,
        gt_crowd: ArrayLike | None = None,
        gt_area: ArrayLike | None = None,
        gt_truncated: ArrayLike | None = None,
        gt_occluded: ArrayLike | None = None,
    ) -> Columns:
        """Checks one picture and returns it as columns, without adding it.

        Args:
            image_id: breaks ties in score between pictures, so give each its own.
            gt_boxes: [n, 4] `ymin, xmin, ymax, xmax` in any unit, but pixels for COCO's object
                sizes to make sense. A box spans from edge to edge, as from `data.voc.pixel_edges`.
            gt_classes: [n] names, or indices into `class_names` (from 0).
            gt_difficult: [n] truth values; detections of these objects count as neither right nor
            wrong.
            det_boxes: [k, 4], like `gt_boxes`.
            det_scores: [k] finite numbers, higher for more confident detections.
            det_classes: [k], like `gt_classes`.
            gt_crowd: [n] truth values, all false by default: COCO's boxes around many objects,
                which may be detected several times and are ignored.
            gt_area: [n] areas for COCO's sizes; by default the boxes' areas.
            gt_truncated: [n] truth values for `object_slices`, all false by default.
            gt_occluded: likewise.

        Raises:
            DataError: boxes that are inverted or not finite, scores that are not finite, unknown
                classes, or different lengths; names the picture and the row.
        """
        gt_class = self._indices(gt_classes, image_id, "ground truth")
        det_class = self._indices(det_classes, image_id, "detection")
        gt_box = _boxes(gt_boxes, len(gt_class), image_id, "ground truth")
        det_box = _boxes(det_boxes, len(det_class), image_id, "detection")
        flags = {
            kind: _flags(values, len(gt_class), image_id, kind)
            for kind, values in (
                ("difficult", gt_difficult),
                ("crowd", gt_crowd),
                ("truncated", gt_truncated),
                ("occluded", gt_occluded),
            )
        }
        area = box_area(gt_box) if gt_area is None else _areas(gt_area, len(gt_class), image_id)
        score = np.asarray(det_scores, np.float64).reshape(-1)
        if len(score) != len(det_class):
            raise DataError(
                f"{image_id}: {len(score)} scores for {len(det_class)} detections; "
                "expected one each"
            )
        if not np.isfinite(score).all():
            row = int(np.argmin(np.isfinite(score)))
            raise DataError(
                f"{image_id}: detection {row}: score {score[row]} is not a finite number, so the "
                "detections cannot be ranked"
            )
        return Columns(
            image_ids=np.array([image_id], dtype=str),
            gt_image=np.zeros(len(gt_class), np.int64),
            gt_class=gt_class,
            **{f"gt_{kind}": values for kind, values in flags.items()},
            gt_area=area,
            gt_box=gt_box,
            det_image=np.zeros(len(det_class), np.int64),
            det_class=det_class,
            det_score=score,
            det_box=det_box,
        )

    def merge(self, others: Iterable["DetectionAccumulator"]) -> None:
        """Adds the pictures of other accumulators, which do not change.

        Raises:
            DataError: their class names differ.
        """
        for other in others:
            if other.class_names != self.class_names:
                raise DataError(
                    f"cannot merge accumulators over {self.class_names} and {other.class_names}"
                )
            self._parts.extend(other._parts)

    def columns(self) -> Columns:
        """Everything added so far as one table, which also replaces the stored parts."""
        if len(self._parts) != 1:
            self._parts = [_concatenate(self._parts)]
        return self._parts[0]

    def _indices(self, classes: ArrayLike, image_id: str, kind: str) -> np.ndarray:
        values = np.asarray(classes).reshape(-1).tolist()
        try:
            return np.array([self._class_index[value] for value in values], np.int32)
        except KeyError as error:
            name = error.args[0]
            raise DataError(
                f"{image_id}: {kind} {values.index(name)}: unknown class {name!r}; "
                f"the classes are {', '.join(self.class_names)}"
            ) from None


def _boxes(boxes: ArrayLike, count: int, image_id: str, kind: str) -> np.ndarray:
    boxes = np.array(boxes, np.float64)
    if boxes.shape != (count, 4) and not (boxes.size == 0 and count == 0):
        raise DataError(
            f"{image_id}: {kind} boxes have shape {boxes.shape} for {count} classes; "
            f"expected ({count}, 4)"
        )
    boxes = boxes.reshape(count, 4)
    # Comparisons with NaN are false, so this finds both NaN and inverted boxes.
    good = (boxes[:, :2] <= boxes[:, 2:]).all(axis=1) & np.isfinite(boxes).all(axis=1)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{image_id}: {kind} {row}: invalid box {boxes[row].tolist()}; expected finite "
            "ymin, xmin, ymax, xmax with ymin <= ymax and xmin <= xmax"
        )
    return boxes


def _flags(values: ArrayLike | None, count: int, image_id: str, kind: str) -> np.ndarray:
    if values is None:
        return np.zeros(count, bool)
    flags = np.asarray(values, bool).reshape(-1)
    if len(flags) != count:
        raise DataError(
            f"{image_id}: {len(flags)} {kind} flags for {count} ground truth objects; "
            "expected one each"
        )
    return flags


def _areas(values: ArrayLike, count: int, image_id: str) -> np.ndarray:
    areas = np.array(values, np.float64).reshape(-1)
    if len(areas) != count or not (np.isfinite(areas) & (areas >= 0)).all():
        raise DataError(
            f"{image_id}: areas {areas.tolist()} for {count} ground truth objects; expected one "
            "each, finite and at least 0"
        )
    return areas


def take(columns: Columns, images: np.ndarray) -> Columns:
    """Selects pictures, each as often as its index is in `images`, int64 [taken]."""

    def rows(of_row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = np.bincount(of_row, minlength=len(columns.image_ids))
        return rows_of(images, counts), np.repeat(np.arange(len(images)), counts[images])

    gt_rows, gt_image = rows(columns.gt_image)
    det_rows, det_image = rows(columns.det_image)
    taken = {
        name: column[gt_rows if name.startswith("gt_") else det_rows]
        for name, column in columns._asdict().items()
        if name != "image_ids"
    }
    return Columns(columns.image_ids[images], **taken)._replace(
        gt_image=gt_image, det_image=det_image
    )


def rows_of(images: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows, int64 [taken], of `images` if picture i has `counts[i]` consecutive rows."""
    taken = counts[images]
    shift = (np.cumsum(counts) - counts)[images] - (np.cumsum(taken) - taken)
    return np.repeat(shift, taken) + np.arange(taken.sum())


def _concatenate(parts: Sequence[Columns]) -> Columns:
    parts = parts or [_EMPTY]
    columns = Columns(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    offsets = np.cumsum([0] + [len(part.image_ids) for part in parts[:-1]])
    return columns._replace(
        gt_image=columns.gt_image + np.repeat(offsets, [len(part.gt_image) for part in parts]),
        det_image=columns.det_image + np.repeat(offsets, [len(part.det_image) for part in parts]),
    )


_EMPTY = Columns(
    image_ids=np.zeros(0, str),
    gt_image=np.zeros(0, np.int64),
    gt_class=np.zeros(0, np.int32),
    gt_difficult=np.zeros(0, bool),
    gt_crowd=np.zeros(0, bool),
    gt_truncated=np.zeros(0, bool),
    gt_occluded=np.zeros(0, bool),
    gt_area=np.zeros(0),
    gt_box=np.zeros((0, 4)),
    det_image=np.zeros(0, np.int64),
    det_class=np.zeros(0, np.int32),
    det_score=np.zeros(0),
    det_box=np.zeros((0, 4)),
)
