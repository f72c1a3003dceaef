"""Makes Ctrl-C and SIGTERM end a command with KeyboardInterrupt, whenever they arrive."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Enough for Python to leave the callback in which it dropped an interrupt.
_AGAIN_S = 0.05

_received: int | None = None
_hints: list[Callable[[], str]] = []
_timers: list[threading.Timer] = []


def received() -> int | None:
    """The signal that interrupted the command, if any."""
    return _received


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, and remembers them.

    The previous handlers are restored. A signal that the parent ignores stays ignored.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    hook = sys.unraisablehook
    _received = None
    _hints.clear()
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = lambda dropped: _raise_again(dropped, hook)
    try:
        yield
    finally:
        for timer in _timers:
            timer.cancel()
        _timers.clear()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


@contextmanager
def when_interrupted(hint: Callable[[], str]) -> Iterator[None]:
    """If an interrupt comes in this block, `hint()` tells the user how to resume."""
    _hints.append(hint)
    try:
        yield
    finally:
        if _received is None:
            _hints.pop()


def how_to_go_on() -> str:
    """The hint of the innermost interrupted block; "" if there is none."""
    return _hints[-1]() if _hints else ""


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    raise KeyboardInterrupt


def _raise_again(dropped: "sys.UnraisableHookArgs", hook: Callable) -> None:
    """Sends an interrupt again that Python dropped.

    It drops exceptions raised in finalisers and garbage collector callbacks; JAX has such a one.
    """
    if _received is None or not isinstance(dropped.exc_value, KeyboardInterrupt):
        hook(dropped)
        return
    main = threading.main_thread().ident
    again = threading.Timer(_AGAIN_S, signal.pthread_kill, (main, _received))
    again.daemon = True
    _timers.append(again)
    again.start()
