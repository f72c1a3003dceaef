"""What the process of a task does: `python -m WORDS`, in its own folder and environment.

A script, as a new process cannot import `tests`: IPython puts a package of that name on the path.
`runpy.run_path` puts `task` into its globals.
"""

import os
import runpy
import sys

task = globals()["task"]
with task["printed"].open("wb") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
os.chdir(task["folder"])
os.environ.clear()
os.environ.update(task["environment"])
sys.path.insert(0, task["environment"]["PYTHONPATH"])
sys.argv = task["words"]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
