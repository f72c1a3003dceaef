"""The error a user can act on."""

import sys

# The exit status of a command that met one.
BAD_INPUT = 2


class DataError(ValueError):
    """Bad input, said in one message: what was found, where (file, record, object), what to do.

    Command lines print the message without a traceback and exit with `BAD_INPUT`.
    """


# Beam raises a worker's exception again with this and the name of the step added to its text.
_BEAM_SUFFIX = " [while running '"


def find_data_error(error: BaseException) -> DataError | None:
    """The DataError behind an exception, which Beam and TFMA wrap in theirs; None without one."""
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
    """The reason in TensorFlow's message, which begins with a node and ends with what was tried."""
    return message.rpartition("}} ")[2].partition("\n")[0]


def exit_status(error: Exception) -> int:
    """Prints the DataError behind an exception; one without, a mistake of ours, is raised again."""
    found = find_data_error(error)
    if found is None:
        raise error
    print(f"error: {found}", file=sys.stderr)
    return BAD_INPUT
