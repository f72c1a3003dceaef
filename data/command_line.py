"""What all command lines share: the parser, and how errors and interrupts end them."""

import argparse
import datetime  # noqa: F401 (an interrupt while pydantic imports it would print a Rust panic)
import functools
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from data.errors import BAD_INPUT, did_you_mean, find_data_error
from data.interrupts import how_to_go_on, interruptible, received

Arguments = Sequence[str] | None


class Parser(argparse.ArgumentParser):
    """An argument parser with "did you mean", named after the command that was run."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("prog", _program())
        super().__init__(**options)

    def parse_args(self, args: Arguments = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Like argparse's, but reports a mistyped option before missing ones."""
        known = dict.fromkeys(_options(self))
        for word in sys.argv[1:] if args is None else args:
            name = word.partition("=")[0]
            if name == "--":
                break
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                hint = _near_miss(name, known)
                if hint:
                    self.error(f"unknown option {name}{hint}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Prints usage and message with a "did you mean"; exits with status 2."""
        if unknown := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += _near_miss(unknown[1], unknown[2].replace("'", "").split(", "))
        super().error(message)


def _near_miss(name: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, known)
    return f"; {hint}" if hint.startswith("did") else ""


def as_command(main: Callable[[Arguments], int | None]) -> Callable[..., int]:
    """Wraps the main function of a command line, which returns an exit status or None for 0.

    A DataError becomes one line and status 2. Ctrl-C becomes one line that says how to resume, and
    status 130; SIGTERM the same with 143. Other exceptions are bugs and pass through.
    """

    @functools.wraps(main)
    def run(arguments: Arguments = None) -> int:
        with interruptible():
            try:
                return main(arguments) or 0
            except SystemExit:
                raise
            except BaseException as error:
                # Libraries turn an interrupt of their import into other errors, or a Rust panic.
                if received() or isinstance(error, KeyboardInterrupt):
                    return _interrupted()
                found = find_data_error(error)
                if found is None:
                    raise
                print(f"error: {found}", file=sys.stderr)
                return BAD_INPUT

    return run


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints uncaught exceptions as Python does, but an interrupt before `main` as one line."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# For interrupts while modules are imported. Python then ends by the signal: 130 in a shell.
sys.excepthook = _uncaught


def _interrupted() -> int:
    hint = how_to_go_on()
    if sys.stderr.isatty():
        print(file=sys.stderr)  # below the ^C of the terminal
    print(f"interrupted{f': {hint}' if hint else ''}", file=sys.stderr)
    return 128 + (received() or signal.SIGINT)


def _program() -> str:
    """How this process was started: `ssd convert`, `python -m data.convert` or a file name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return Path(sys.argv[0]).name


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All options of a parser and of its subcommands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for subcommand in action.choices.values():
                yield from _options(subcommand)
