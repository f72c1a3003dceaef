"""The options of a conversion, defined once.

`ssd convert` takes them as `--pixels-from 0`, a run as `--set data.pixels_from=0`.
"""

import argparse
import dataclasses
import re
import shlex
from typing import Annotated, Any, get_origin

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from data.settings import CHECKED, Settings, one_of

AUTO = "auto"
_LISTS = ("train", "eval", "test")
_METAVARS = {
    "split": "SHARES",
    "eval_fraction": "SHARE",
    "other_classes": "fail|ignore",
    "exif": "upright|stored",
    "pixels_from": "0|1",
    "on_error": "fail|skip|skip-object",
}
DEFAULT_SPLIT = "80/10/10"
UPRIGHT, STORED = "upright", "stored"
FAIL, SKIP, SKIP_OBJECT = "fail", "skip", "skip-object"
IGNORE = "ignore"


@dataclass(frozen=True, config=CHECKED | {"use_attribute_docstrings": True})
class ConversionOptions(Settings):
    """How annotations are read, and which pictures go to which split."""

    train: tuple[str, ...] = ()
    """Lists of pictures to train on, such as `VOC2007/trainval`."""
    eval: tuple[str, ...] = ()
    """Lists of pictures for choosing a checkpoint; without any, `eval_fraction` is held out."""
    test: tuple[str, ...] = ()
    """Lists of pictures to measure the final model on."""
    split: str = ""
    """Shares of train, eval and test, such as 80/10/10 (the default without lists), assigned by
    content; pictures that look the same go to the same split."""
    eval_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the training pictures held out for eval, by content, if there is no eval list."""
    classes: tuple[str, ...] = ()
    """The classes in the order of their ids; `auto`: those found, sorted by name. Default: VOC's
    20, or COCO's categories."""
    other_classes: Annotated[str, one_of((FAIL, IGNORE))] = FAIL
    """Objects of other classes are an error, or ignored; their pictures stay."""
    exif: Annotated[str, one_of((UPRIGHT, STORED))] | None = None
    """For pictures rotated by an EXIF tag: `upright` if the boxes were drawn on the upright
    picture, which is then written; `stored` if they are in pixels as stored, and the tag is
    removed."""
    pixels_from: int = Field(default=1, ge=0, le=1)
    """Whether VOC files count pixels from 1, as VOC does, or from 0; COCO always counts from 0."""
    reencode: bool = False
    """Writes PNG, BMP, WebP, GIF, TIFF and CMYK pictures as RGB JPEGs of quality 95."""
    rescale: bool = False
    """Scales boxes from the stated size to the picture's if the two differ."""
    allow_empty: bool = False
    """Accepts a split without a single object."""
    on_error: Annotated[str, one_of((FAIL, SKIP, SKIP_OBJECT))] = FAIL
    """fail: write nothing if a picture or object is unusable; skip: leave the picture out;
    skip-object: leave out bad objects and keep their pictures. rejected.jsonl lists both."""

    @field_validator("split")
    @classmethod
    def _check_split(cls, text: str) -> str:
        if text:
            shares_of(text)
        return text

    @property
    def shares(self) -> tuple[float, ...] | None:
        """Shares of train, eval and test, adding up to 1; None if none are given."""
        return shares_of(self.split) if self.split else None


def shares_of(text: str) -> tuple[float, ...]:
    """Parses `80/10/10`: shares of train, eval and test that add up to 1; ValueError if invalid."""
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    if len(shares) != 3 or not 0 < sum(shares) < float("inf") or min(shares) < 0 or not shares[0]:
        raise ValueError("must be the shares of train, eval and test, such as 80/10/10")
    return tuple(share / sum(shares) for share in shares)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each field, which `options_of` reads."""
    for field in dataclasses.fields(ConversionOptions):
        info = ConversionOptions.__pydantic_fields__[field.name]
        arguments: dict[str, Any] = {
            "help": " ".join((info.description or "").replace("`", "").split())
        }
        if info.annotation is bool:
            arguments |= {"action": "store_const", "const": True}
        elif field.name in _LISTS:
            arguments |= {"action": "append", "metavar": "LIST"}
        elif get_origin(info.annotation) is tuple:
            arguments |= {"nargs": "+", "metavar": "NAME"}
        else:
            arguments |= {"metavar": _METAVARS.get(field.name, "VALUE")}
        parser.add_argument(flag_of(field.name), dest=field.name, **arguments)


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields that a parsed command line sets."""
    names = [field.name for field in dataclasses.fields(ConversionOptions)]
    given = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def as_settings(text: str) -> str:
    """A message of the conversion, with its options written as `--set data.NAME=`."""
    text = re.sub(r"^  --classes (.+)$", _classes_setting, text, flags=re.MULTILINE)
    for field in dataclasses.fields(ConversionOptions):
        kind = field.type
        flag, name = re.escape(flag_of(field.name)), f"--set data.{field.name}="
        # --eval must not match in --eval-fraction.
        if kind is bool:
            text = re.sub(rf"{flag}(?![\w-])", f"{name}true", text)
        else:
            text = re.sub(rf"{flag}(?![\w-])(?:[ =](?=[\w./-]))?", name, text)
    return text


def _classes_setting(option: re.Match[str]) -> str:
    return f"  --set data.classes={shlex.quote(','.join(shlex.split(option[1])))}"


def flag_of(name: str) -> str:
    """The command line option of a field."""
    return f"--{name.replace('_', '-')}"
