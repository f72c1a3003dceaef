"""The schema, the only source of class names and their order."""

from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from data import fields
from data.errors import DataError

_SCHEMAS = Path(__file__).parent / "schemas"
VOC_SCHEMA = _SCHEMAS / "voc.pbtxt"
VOC_HIKAPOK_SCHEMA = _SCHEMAS / "voc_hikapok.pbtxt"
SAMPLE_SCHEMA = _SCHEMAS / "sample.pbtxt"


def read_schema(path: Path | str) -> schema_pb2.Schema:
    """Reads a schema in text format, as SchemaGen writes it.

    Raises:
        DataError: the file is missing or is not a schema.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot read the schema ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a schema in text format (.pbtxt)") from error
    try:
        return text_format.Parse(text, schema_pb2.Schema())
    except text_format.ParseError as error:
        raise DataError(
            f"{path}: not a TensorFlow Metadata schema in text format ({error})"
        ) from error


def make_schema(classes: Sequence[str], *, with_crowds: bool) -> schema_pb2.Schema:
    """The schema of records with these classes and the common field names.

    with_crowds: whether the data set marks crowds.
    """
    schema = read_schema(VOC_SCHEMA)
    (domain,) = schema.string_domain
    domain.value[:] = classes
    features = {feature.name: feature for feature in schema.feature}
    features[fields.COMMON.label].int_domain.max = len(classes)
    if with_crowds:
        crowd = schema.feature.add()
        crowd.CopyFrom(features[fields.COMMON.difficult])
        crowd.name = fields.COMMON.is_crowd
        # A split may have no objects.
        crowd.ClearField("presence")
    return schema


def class_names(schema: schema_pb2.Schema) -> tuple[str, ...]:
    """The classes in the order of their ids 1..N: the string domain of the class feature.

    Raises:
        DataError: the class feature or its domain is missing, or a name is duplicate or empty.
    """
    features = {feature.name: feature for feature in schema.feature}
    name = fields.detect(features).text
    feature = features[name]
    domains = {domain.name: domain for domain in schema.string_domain}
    domain = domains.get(feature.domain) if feature.domain else feature.string_domain
    names = tuple(domain.value) if domain else ()
    if not names:
        raise DataError(
            f"the schema has no list of values for {name}, so the classes are unknown. Add a "
            "string_domain with the class names"
        )
    repeated = sorted({value for value in names if names.count(value) > 1})
    if repeated:
        raise DataError(
            f"the classes ({name}) list {', '.join(repeated)} twice. Remove one of them"
        )
    if any(value != value.strip() or not value for value in names):
        raise DataError(
            f"the classes ({name}) are {', '.join(map(repr, names))}: a name is empty, or starts "
            "or ends with a space, which is stripped from annotations. Fix it"
        )
    return names
