"""Runs the command `python -m trainer.worker ...` with a tiny detector (see tiny_worker.py)."""

import sys

from tests.trainer import tiny_worker

if __name__ == "__main__":
    assert sys.argv[1:3] == ["-m", "trainer.worker"], sys.argv
    sys.exit(tiny_worker.main(sys.argv[3:]))
