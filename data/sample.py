"""Command line: draws a small VOC data set of shapes, reproducible by its seed.

    ssd sample --output DIR

The pictures are in three disjoint lists: train, val and test, 8 : 1 : 2.
"""

import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
from PIL import Image

from data.command_line import Arguments, Parser, as_command
from data.errors import DataError
from data.output import whole_folder
from data.paths import local_path
from data.shapes import draw_scene
from data.voc import VocObject

DEFAULT_IMAGES = 1650
# Options for `data.convert.convert`, in addition to the sample's classes.
SPLIT_LISTS = {"train": ("VOC2007/train",), "eval": ("VOC2007/val",), "test": ("VOC2007/test",)}
_SHARES = {"train": 8, "val": 1, "test": 2}
_JPEG_QUALITY = 90


def draw_sample(output: Path | str, *, images: int = DEFAULT_IMAGES, seed: int = 0) -> None:
    """Draws DIR/VOCdevkit/VOC2007 with JPEGs, annotations and image lists.

    Args:
        output: a folder that does not exist yet or is empty.
        images: total number of pictures.
        seed: the same seed gives the same bytes.

    Raises:
        DataError: too few pictures for three lists, or an unusable output folder.
    """
    lists = _divide(images)
    with whole_folder(Path(output)) as folder:
        year = folder / "VOCdevkit" / "VOC2007"
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (year / name).mkdir(parents=True)
        for number in range(1, images + 1):
            # Each picture has its own generator, so it does not depend on their number.
            scene = draw_scene(np.random.default_rng((seed, number)))
            jpeg = io.BytesIO()
            scene.image.save(jpeg, "JPEG", quality=_JPEG_QUALITY)
            (year / "JPEGImages" / f"{number:06d}.jpg").write_bytes(jpeg.getvalue())
            annotation = _annotation(f"{number:06d}.jpg", scene.image, scene.objects)
            annotation.write(year / "Annotations" / f"{number:06d}.xml")
        for name, numbers in lists.items():
            lines = "".join(f"{number:06d}\n" for number in numbers)
            (year / "ImageSets" / "Main" / f"{name}.txt").write_text(lines)


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line and returns its exit status."""
    parser = Parser(description="Draws a small VOC data set of six shapes.")
    parser.add_argument("--output", type=local_path, required=True, metavar="DIR")
    parser.add_argument(
        "--images", type=int, default=DEFAULT_IMAGES, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    draw_sample(options.output, images=options.images, seed=options.seed)
    lists = " ".join(f"--{split} {name}" for split, (name,) in SPLIT_LISTS.items())
    print(f"wrote {options.images:,} pictures to {options.output / 'VOCdevkit' / 'VOC2007'}")
    print(
        f"convert them: ssd convert --voc {shlex.quote(str(options.output))} "
        f"--output RECORDS --schema data/schemas/sample.pbtxt {lists}"
    )


def _divide(images: int) -> dict[str, range]:
    """The picture numbers of each list; trainval is train plus val, as in VOC."""
    val, test = (round(images * _SHARES[name] / sum(_SHARES.values())) for name in ("val", "test"))
    train = images - val - test
    if min(train, val, test) < 1:
        raise DataError(
            f"--images {images}: too few for a train, val and test list. Give 6 or more"
        )
    trainval = train + val
    return {
        "train": range(1, train + 1),
        "val": range(train + 1, trainval + 1),
        "trainval": range(1, trainval + 1),
        "test": range(trainval + 1, images + 1),
    }


def _annotation(filename: str, image: Image.Image, objects: Sequence[VocObject]) -> ElementTree:
    root = Element("annotation")
    SubElement(root, "folder").text = "VOC2007"
    SubElement(root, "filename").text = filename
    SubElement(SubElement(root, "source"), "database").text = "Generated shapes"
    _fill(SubElement(root, "size"), width=image.width, height=image.height, depth=3)
    SubElement(root, "segmented").text = "0"
    for item in objects:
        element = SubElement(root, "object")
        _fill(
            element,
            name=item.name,
            pose="Unspecified",
            truncated=int(item.truncated),
            occluded=int(item.occluded),
            difficult=int(item.difficult),
        )
        edges = dict(zip(("xmin", "ymin", "xmax", "ymax"), item.box_px, strict=True))
        _fill(SubElement(element, "bndbox"), **edges)
    indent(root, "\t")
    return ElementTree(root)


def _fill(parent: Element, **texts: object) -> None:
    for tag, text in texts.items():
        SubElement(parent, tag).text = str(text)


if __name__ == "__main__":
    sys.exit(main())
