"""The error that users can act on."""

import difflib
from collections.abc import Iterable

# The exit status for bad input, as in argparse and click.
BAD_INPUT = 2
_MOST_NAMES = 30


class DataError(ValueError):
    """Bad input, in one message: what was found, where (file, record, object), what to do.

    Command lines print the message without a traceback (`data.command_line`).
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: similar names, or all if none is similar.

    A long list is cut.
    """
    known = list(known)
    by_lower = {other.lower(): other for other in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=3)
    if near := [by_lower[match] for match in matches]:
        return f"did you mean {', '.join(near[:-2] + [' or '.join(near[-2:])])}?"
    more = ", ..." if len(known) > _MOST_NAMES else ""
    return f"choose from {', '.join(known[:_MOST_NAMES])}{more}"


# Beam appends this and the name of the step when it re-raises a worker's exception.
_BEAM_SUFFIX = " [while running '"


def find_data_error(error: BaseException) -> DataError | None:
    """The DataError that Beam or TFMA wrapped in another exception, if any."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, DataError):
            return DataError(str(current).partition(_BEAM_SUFFIX)[0])
        seen.add(id(current))
        pending += [current.__context__, current.__cause__]
    return None


def reason_of(message: str) -> str:
    """The reason in a TensorFlow message, without the node before it and the details after it."""
    return message.rpartition("}} ")[2].partition("\n")[0]
