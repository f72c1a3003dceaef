"""A small VOC year for tests to fill and break."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOG = ("dog", (2, 3, 20, 30))


def jpeg_bytes(width: int = 40, height: int = 36, seed: int = 0, mode: str = "RGB", **options):
    """A picture of noise as JPEG; its bytes depend on the seed."""
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def annotation_xml(
    objects: Sequence[tuple] = (DOG,), width: int = 40, height: int = 36, filename: str = "a.jpg"
) -> str:
    """A VOC annotation of (name, (xmin, ymin, xmax, ymax), tags...) objects."""
    rows = []
    for name, box, *more in objects:
        edges = "".join(
            f"<{tag}>{edge}</{tag}>"
            for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        rows.append(f"<object><name>{name}</name>{''.join(more)}<bndbox>{edges}</bndbox></object>")
    return (
        f"<annotation><filename>{filename}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{''.join(rows)}</annotation>"
    )


class VocYear:
    """Writes pictures and lists into ROOT/VOC2007 or another year."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)

    def add(self, image_id: str, xml: str | None = "", jpeg: bytes | None = b"") -> str:
        """Adds a picture; "" and b"" give good files, None a missing one."""
        if xml is not None:
            path = self.folder / "Annotations" / f"{image_id}.xml"
            path.write_text(xml or annotation_xml())
        if jpeg is not None:
            seed = int.from_bytes(f"{self.folder.name}/{image_id}".encode(), "big")
            path = self.folder / "JPEGImages" / f"{image_id}.jpg"
            path.write_bytes(jpeg or jpeg_bytes(seed=seed))
        return image_id

    def write_list(self, name: str, image_ids: Sequence[str]) -> None:
        """Writes ImageSets/Main/NAME.txt."""
        path = self.folder / "ImageSets" / "Main" / f"{name}.txt"
        path.write_text("".join(f"{image_id}\n" for image_id in image_ids))


@pytest.fixture
def voc_root(tmp_path) -> Path:
    """An empty VOCdevkit."""
    root = tmp_path / "voc"
    root.mkdir()
    return root


@pytest.fixture
def voc_year(voc_root) -> VocYear:
    """VOC2007 with four good pictures: two in trainval, one in val, one in test."""
    year = VocYear(voc_root / "VOC2007")
    year.write_list("trainval", [year.add("000001"), year.add("000002")])
    year.write_list("val", [year.add("000003")])
    year.write_list("test", [year.add("000004")])
    return year


@pytest.fixture(scope="session")
def make_jpeg():
    """The function `jpeg_bytes`."""
    return jpeg_bytes


@pytest.fixture(scope="session")
def make_xml():
    """The function `annotation_xml`."""
    return annotation_xml


@pytest.fixture
def make_year(voc_root):
    """Adds another year to the VOCdevkit."""
    return lambda name: VocYear(voc_root / name)
