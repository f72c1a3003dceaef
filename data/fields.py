"""The field names of a record, defined once for writing and reading."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from data.errors import DataError


@dataclass(frozen=True)
class Fields:
    """Feature names of a `tf.Example` that holds one annotated picture.

    `encoded` to `width` hold one value each, the others one per object. Boxes are floats relative
    to the picture. None marks fields that such records lack. `is_crowd` is present if the data set
    marks boxes around many objects, as COCO does; these are difficult as well.
    """

    encoded: str
    format: str
    filename: str
    source_id: str | None
    sha256: str | None
    height: str
    width: str
    xmin: str
    xmax: str
    ymin: str
    ymax: str
    text: str
    label: str
    difficult: str
    truncated: str
    occluded: str | None
    is_crowd: str | None


# The names of the TensorFlow Object Detection API, which are the usual ones.
COMMON = Fields(
    encoded="image/encoded",
    format="image/format",
    filename="image/filename",
    source_id="image/source_id",
    sha256="image/key/sha256",
    height="image/height",
    width="image/width",
    xmin="image/object/bbox/xmin",
    xmax="image/object/bbox/xmax",
    ymin="image/object/bbox/ymin",
    ymax="image/object/bbox/ymax",
    text="image/object/class/text",
    label="image/object/class/label",
    difficult="image/object/difficult",
    truncated="image/object/truncated",
    occluded="image/object/occluded",
    is_crowd="image/object/is_crowd",
)

# The names that HiKapok/SSD.TensorFlow writes.
HIKAPOK = Fields(
    encoded="image/encoded",
    format="image/format",
    filename="image/filename",
    source_id=None,
    sha256=None,
    height="image/height",
    width="image/width",
    xmin="image/object/bbox/xmin",
    xmax="image/object/bbox/xmax",
    ymin="image/object/bbox/ymin",
    ymax="image/object/bbox/ymax",
    text="image/object/bbox/label_text",
    label="image/object/bbox/label",
    difficult="image/object/bbox/difficult",
    truncated="image/object/bbox/truncated",
    occluded=None,
    is_crowd=None,
)


def detect(feature_names: Iterable[str]) -> Fields:
    """Finds out which names a record or a schema uses.

    Records without `source_id` are identified by `filename`. Optional facts about objects, such as
    `difficult`, may be missing.

    Raises:
        DataError: neither fits, so these are not records of annotated pictures.
    """
    names = set(feature_names)
    missing = {}
    for kind, fields in (("common", COMMON), ("SSD.TensorFlow's", HIKAPOK)):
        if fields.source_id and fields.source_id not in names:
            fields = replace(fields, source_id=None)
        picture = (fields.encoded, fields.source_id or fields.filename, fields.height, fields.width)
        needed = (*picture, fields.text, fields.xmin, fields.ymin, fields.xmax, fields.ymax)
        missing[kind] = [name for name in needed if name not in names]
        if not missing[kind]:
            return fields
    found = ", ".join(sorted(names)) or "none"
    lacks = "; ".join(f"for the {kind} names: {', '.join(lost)}" for kind, lost in missing.items())
    raise DataError(
        f"these TFRecords are not annotated pictures. Fields found: {found}. Missing {lacks}. "
        "Write them with `ssd convert`"
    )
