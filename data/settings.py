"""Typed settings, checked when they are built: the base of every part of a configuration."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs, ErrorDetails

from data.errors import DataError, did_you_mean

# The path of names to a value, such as ("trainer", "batch_size").
Names = tuple[str, ...]
Fraction = Annotated[float, Field(ge=0, le=1)]

# Our words for pydantic's kinds of errors, with the field's bounds.
_WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "finite_number": "must be finite",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "dict_type": "must be a section",
    "mapping_type": "must be a section",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


def one_of(choices: Collection[str]) -> AfterValidator:
    """For `Annotated`: the value must be one of these."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"is unknown; {did_you_mean(value, choices)}")
        return value

    return AfterValidator(check)


CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=CHECKED)
class Settings:
    """Base of pydantic dataclasses `@dataclass(frozen=True, config=CHECKED)`.

    Values are checked when they are built, also by `dataclasses.replace`. Text is converted to the
    type of its field, and split at commas for a list, so that a command line can set any field.

    Raises:
        pydantic.ValidationError: a ValueError, for an unknown name or a value that does not fit.
    """

    if TYPE_CHECKING:
        __pydantic_fields__: ClassVar[Mapping[str, FieldInfo]]  # pydantic's decorator adds it

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        kind = field_types(cls)[info.field_name or ""]
        if get_origin(kind) is tuple and isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, bool) and {int, float}.intersection((kind, *get_args(kind))):
            raise ValueError("must be a number")  # to Python, True is 1
        return value


T = TypeVar("T", bound=Settings)


def parse(
    settings: type[T], values: Mapping[str, Any], source: Callable[[Names], str] = lambda _: ""
) -> T:
    """Settings from plain values, such as those of a YAML or JSON file.

    Args:
        source: gives the prefix of a message by the names of a value: where the value comes from.

    Raises:
        DataError: has a line for each bad value, which says what is wrong and what would fit.
    """
    try:
        return TypeAdapter(settings).validate_python(values)
    except ValidationError as error:
        raise DataError("\n".join(_lines(settings, error, source))) from None


def field_types(settings: type[Settings], names: Names = ()) -> Mapping[str, Any]:
    """The types of the fields by name, in the section at `names`."""
    section: Any = settings
    for name in names:
        is_settings = isinstance(section, type) and issubclass(section, Settings)
        section = field_types(section)[name] if is_settings else get_args(section)[1]
    return {name: field.annotation for name, field in section.__pydantic_fields__.items()}


def _lines(
    settings: type[Settings], error: ValidationError, source: Callable[[Names], str]
) -> Iterator[str]:
    for details in error.errors(include_url=False):
        # Indices of lists are numbers.
        names = tuple(part for part in details["loc"] if isinstance(part, str))
        where = f"{'.'.join(names)}: " if names else ""
        yield f"{source(names)}{where}{_message(settings, details, names)}"


def _message(settings: type[Settings], details: ErrorDetails, names: Names) -> str:
    kind, value = details["type"], details["input"]
    context = {
        name: int(bound) if isinstance(bound, float) and bound.is_integer() else bound
        for name, bound in details.get("ctx", {}).items()
    }
    if kind == "unexpected_keyword_argument":
        return f"unknown setting; {did_you_mean(names[-1], field_types(settings, names[:-1]))}"
    if kind == "dataclass_type":
        known = ", ".join(list(field_types(settings, names))[:3])
        return f"{value!r} must be a section with settings such as {known}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        message = str(context["error"])
        return (
            message
            if isinstance(value, Mapping | Settings | ArgsKwargs)
            else f"{value!r} {message}"
        )
    return f"{value!r} {_WORDS[kind].format(**context)}" if kind in _WORDS else details["msg"]
