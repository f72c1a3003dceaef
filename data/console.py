"""What reaches the terminal: the one place where library noise is silenced.

Call `quiet()` before TensorFlow, Beam or TFX is imported; child processes inherit the environment.
"""

import logging
import os
import warnings

# Loggers whose INFO and WARNING lines a user of the pipeline cannot act on.
_NOISY_LOGGERS = ("absl", "tensorflow", "apache_beam", "root", "tfx", "grpc", "google", "h5py")


def quiet(verbose: bool = False) -> None:
    """Silences library logs and warnings; with `verbose` everything comes through at INFO."""
    if verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
        logging.basicConfig(level=logging.INFO, force=True)
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    os.environ["PYTHONWARNINGS"] = "ignore"
    warnings.simplefilter("ignore")
    # Libraries call warnings.simplefilter("default") on import and would undo the line above.
    warnings.showwarning = lambda *args, **kwargs: None
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
