"""What reaches the terminal: the one place where library noise is silenced.

Call `quiet()` before TensorFlow, Beam or TFX is imported; child processes inherit the environment.
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

# Loggers whose INFO and WARNING lines a user of the pipeline cannot act on.
_NOISY_LOGGERS = ("tensorflow", "apache_beam", "tfx", "grpc", "google", "h5py", "jax")


def quiet(verbose: bool = False) -> None:
    """Silences library logs and warnings; with `verbose` everything comes through at INFO."""
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
    # What TFX logs as an error it also raises.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger().setLevel(logging.ERROR)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    # As TFX does; with the record that a worker failed on, in pages of text.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Libraries call warnings.simplefilter("default") on import, so filters would not last.
    warnings.showwarning = lambda *args, **kwargs: None
    if not any(isinstance(finder, _SilentTensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SilentTensorFlow())


class _SilentTensorFlow(MetaPathFinder):
    """Loads TensorFlow with its standard error shut.

    While they are loaded, TensorFlow 2.21's libraries log what they find on the machine, before
    they read TF_CPP_MIN_LOG_LEVEL.
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
    """Drops what native code writes, which no Python object sees; exceptions come through."""
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
    """Prints to the standard output of the moment, which tests and progress bars replace."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout, flush=True)
