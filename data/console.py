"""What reaches the terminal: library noise is silenced here and nowhere else.

Call `quiet()` before importing TensorFlow, Beam or TFX; child processes inherit the environment.
The project's own lines go through the logger `ssd` and its children.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

# Loggers whose INFO and WARNING lines users cannot act on.
_NOISY_LOGGERS = ("tensorflow", "apache_beam", "tfx", "grpc", "google", "h5py", "jax")


def quiet(verbose: bool = False) -> None:
    """Silences library logs and warnings; `verbose` shows everything from INFO up."""
    own = logging.getLogger("ssd")
    own.setLevel(logging.INFO)
    own.propagate = False
    if not own.handlers:
        own.addHandler(_StdoutHandler())
    # absl replaces the root handler and the logger class on import: let it, then set its level.
    from absl import logging as absl_logging

    if verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
        absl_logging.set_verbosity(absl_logging.INFO)
        logging.getLogger().setLevel(logging.INFO)
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    os.environ["PYTHONWARNINGS"] = "ignore"
    # Whatever TFX logs as an error it also raises.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger().setLevel(logging.ERROR)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Beam raises its errors too, and logs pages of text with the record that failed.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Libraries call warnings.simplefilter("default") on import, so filters would not last.
    warnings.showwarning = lambda *args, **kwargs: None
    if not any(isinstance(finder, _SilentTensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SilentTensorFlow())


class _SilentTensorFlow(MetaPathFinder):
    """Imports TensorFlow with standard error closed.

    TensorFlow 2.21's libraries log what they find on the machine before they read
    TF_CPP_MIN_LOG_LEVEL.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with _no_stderr():
                    load(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drops what native code writes to standard error, below Python; exceptions pass through."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _StdoutHandler(logging.Handler):
    """Prints to the current `sys.stdout`, which tests and progress bars replace."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout, flush=True)
