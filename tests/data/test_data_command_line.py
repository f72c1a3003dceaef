"""What command lines share: "did you mean", one-line errors, and how signals end them."""

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from data import interrupts
from data.command_line import Parser, as_command
from data.errors import DataError
from data.interrupts import interruptible, when_interrupted

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def parser():
    parser = Parser(prog="tool")
    parser.add_argument("--score-threshold", required=True)
    commands = parser.add_subparsers(required=True)
    for name in ("show", "trace"):
        commands.add_parser(name).add_argument("--json", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score-treshold=1", "show"], "unknown option --score-treshold; did you mean --score-t"),
        (["--hlep"], "unknown option --hlep; did you mean --help?"),
        (["--score-threshold=1", "show", "--jsn"], "unknown option --jsn; did you mean --json?"),
        (["--score-threshold=1", "trcae"], "invalid choice: 'trcae' .*; did you mean trace"),
        (["--score-threshold=1", "show", "--xyz"], "unrecognized arguments: --xyz$"),
        (["show"], "the following arguments are required: --score-threshold$"),
    ],
)
def test_mistyped_options_and_choices_get_a_did_you_mean(parser, words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(words)
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err.strip())


def test_abbreviations_and_words_after_two_dashes_are_left_alone():
    parser = Parser()
    parser.add_argument("--score-threshold")
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args(["--score=1", "--", "--hlep"])
    assert vars(options) == {"score_threshold": "1", "rest": ["--hlep"]}


def _command(action):
    return as_command(lambda arguments: action())


def test_the_exit_status_of_a_command(capsys):
    assert _command(lambda: None)() == 0
    assert _command(lambda: 7)() == 7
    assert capsys.readouterr() == ("", "")


def test_an_error_is_one_line_and_status_2(capsys):
    def fail():
        raise RuntimeError("add_input failed") from DataError("p7: score nan")

    assert _command(fail)() == 2
    assert capsys.readouterr().err == "error: p7: score nan\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        _command(lambda: 1 / 0)()


def _interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    time.sleep(5)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_in_one_line(number, status, capsys):
    before = signal.getsignal(number)
    assert _command(lambda: _interrupt(number))() == status
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(number) is before


def test_the_hint_of_the_innermost_interrupted_block_is_shown(capsys):
    def work():
        with when_interrupted(lambda: "outer"):
            with when_interrupted(lambda: "finished"):
                pass
            with when_interrupted(lambda: "resume from step 100"):
                _interrupt()

    assert _command(work)() == 130
    assert capsys.readouterr().err == "interrupted: resume from step 100\n"


class Panic(BaseException):
    """Like Rust's, not an Exception."""


@pytest.mark.parametrize("kind", [ImportError, Panic])
def test_an_interrupt_that_a_library_turns_into_another_error(kind, capsys):
    def work():
        try:
            _interrupt()
        except KeyboardInterrupt as error:
            raise kind("cannot import the module") from error

    assert _command(work)() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_in_a_garbage_collector_callback_is_not_lost(capsys):
    """JAX has such a callback, and Python drops exceptions raised in it."""
    reached = []

    def callback(phase, info):
        if not reached:
            reached.append(phase)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def work():
        gc.callbacks.append(callback)
        try:
            gc.collect()
            reached.append("continued")
            time.sleep(5)
            reached.append("lost")
        finally:
            gc.callbacks.remove(callback)

    assert _command(work)() == 130
    assert reached == ["start", "continued"]
    assert capsys.readouterr().err == "interrupted\n"


def test_a_second_interrupt_reaches_cleanup_code(capsys):
    seen = []

    def work():
        try:
            _interrupt()
        finally:
            try:
                _interrupt()
            except KeyboardInterrupt:
                seen.append("second")

    assert _command(work)() == 130
    assert seen == ["second"]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert interrupts.received() is None
    finally:
        signal.signal(signal.SIGINT, before)


# Imports what a command imports, reports its progress, and never ends.
_WAITING = """
import sys
from data.command_line import as_command
from data.console import quiet
from data.output import whole_folder

@as_command
def main(arguments=None):
    quiet()
    print("loading", flush=True)
    import {module}
    with whole_folder(__import__("pathlib").Path(arguments[0])) as folder:
        (folder / "half").write_text("written")
        print("ready", flush=True)
        __import__("time").sleep(60)

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("while_loading", [False, True])
def test_a_process_ends_with_130_and_leaves_nothing(while_loading, tmp_path):
    script = textwrap.dedent(_WAITING).format(module="tensorflow" if while_loading else "json")
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "loading\n"
    if while_loading:
        time.sleep(0.2)
    else:
        assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    wanted = (
        "interrupted\n" if while_loading else f"interrupted: {tmp_path}/out was not written; rerun"
    )
    assert stderr.startswith(wanted) and stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
