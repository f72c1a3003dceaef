"""Runs `python WORDS...` in a fork; `runpy.run_path` sets the global `command`."""

import os
import runpy
import sys
from pathlib import Path

command = globals()["command"]
for descriptor, path in ((1, command["stdout"]), (2, command["stderr"])):
    with path.open("ab") as file:
        os.dup2(file.fileno(), descriptor)
os.chdir(command["folder"])
os.environ.clear()
os.environ.update(command["environment"])
# IPython appends a folder of extensions that has its own package `tests`, which would hide ours.
sys.path[:] = [path for path in sys.path if not path.endswith("IPython/extensions")]
sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
words = command["words"]
if words[0] == "-m":
    sys.argv = words[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    runpy.run_path(words[0], run_name="__main__")
