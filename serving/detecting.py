"""Detections for any number of pictures: read ahead, detected in batches, written in order."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from data.errors import DataError
from data.progress import show_progress
from serving.detections import Detection, Prediction, detections_of, save_drawing
from serving.drawing import open_picture
from serving.formats import Write
from serving.picture_files import EncodedPicture, PictureFile, read_picture
from serving.thresholds import ScoreThresholds

# Encoded pictures to a model's outputs for each.
Ask = Callable[[Sequence[bytes]], Sequence[dict]]

# Batches in a model at a time: one decodes while another is in the network.
_AT_ONCE = 2
# Fewer pictures than this are done before progress matters.
_MANY = 20
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Refused(DataError):
    """The model refuses these pictures; it may accept others."""


def detect_all(
    files: Sequence[PictureFile],
    ask: Ask,
    write: Write,
    *,
    batch_size: int,
    thresholds: ScoreThresholds,
    drawings: Path | None,
) -> list[PictureFile]:
    """Writes the result of each picture, in order, as soon as it is available.

    A picture that cannot be read or that the model refuses is reported on standard error and
    skipped. Memory does not grow with the number of pictures.

    Args:
      drawings: folder for drawings; None draws nothing.

    Returns:
      The pictures that failed.

    Raises:
      DataError: the model cannot be reached, or results cannot be written.
    """

    def read(file: PictureFile) -> EncodedPicture | DataError:
        try:
            return read_picture(file)
        except DataError as error:
            return error

    def answer(
        batch: list[tuple[PictureFile, EncodedPicture | DataError]],
    ) -> list[Prediction | DataError]:
        pictures = [picture for _, picture in batch if isinstance(picture, EncodedPicture)]
        outputs = iter(ask_for_each(ask, pictures))
        results: list[Prediction | DataError] = []
        for file, picture in batch:
            if isinstance(picture, DataError):
                results.append(picture)
                continue
            found = next(outputs)
            if isinstance(found, DataError):
                results.append(found)
                continue
            detections = shown_detections(found, thresholds)
            drawing = None
            if drawings is not None:
                drawing = drawings / f"{file.name}.detections.jpg"
                save_drawing(open_picture(file.path), detections, drawing)
            results.append(
                Prediction(file.path, file.name, picture.width, picture.height, drawing, detections)
            )
        return results

    failed = []
    console = Console(stderr=True)
    totals = {"detect": len(files)} if len(files) >= _MANY else {}
    with (
        show_progress(totals, console) as update,
        ThreadPoolExecutor(os.cpu_count()) as readers,
        ThreadPoolExecutor(_AT_ONCE) as askers,
    ):
        pictures = zip(files, _ahead(readers, read, files, 2 * batch_size), strict=True)
        # One more than in the model: the batch whose results are being written.
        answers = _ahead(askers, answer, _batches(pictures, batch_size), _AT_ONCE + 1)
        results = (result for batch in answers for result in batch)
        for done, (file, result) in enumerate(zip(files, results, strict=True), start=1):
            try:
                if isinstance(result, DataError):
                    raise result
                write(result)
            except DataError as error:
                failed.append(file)
                console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
            if totals:
                update({"detect": done})
    return failed


def report_failures(failed: Sequence[PictureFile], total: int) -> int:
    """Lists the pictures that failed on standard error; returns the exit status."""
    if not failed:
        return 0
    names = "\n".join(f"  {file.path}" for file in failed)
    print(f"{len(failed)} of {total} pictures failed:\n{names}", file=sys.stderr)
    return 1


def shown_detections(outputs: dict, thresholds: ScoreThresholds) -> list[Detection]:
    """The detections in one picture's outputs that reach their thresholds, best first."""
    return [
        detection
        for detection in detections_of(outputs, thresholds.lowest)
        if thresholds.keeps(detection.name, detection.score)
    ]


def ask_for_each(ask: Ask, pictures: Sequence[EncodedPicture]) -> list[dict | DataError]:
    """Asks for all pictures in one request; if that is refused, for each in its own."""
    if not pictures:
        return []
    try:
        return list(ask([picture.encoded for picture in pictures]))
    except Refused as error:
        if len(pictures) == 1:
            return [DataError(f"{pictures[0].file.path}: {error}")]
    return [answer for picture in pictures for answer in ask_for_each(ask, [picture])]


def _batches(items: Iterable[_Given], size: int) -> Iterator[list[_Given]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[_Given], _Made],
    items: Iterable[_Given],
    most: int,
) -> Iterator[_Made]:
    """`map` on threads, in order, at most `most` items ahead of the consumer."""
    waiting: deque[Future[_Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
