"""Runs README's commands for a model server verbatim."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
# The `ssd` command of this checkout, even if another one is installed.
_SSD = "import sys, ssd; sys.exit(ssd.main())"


@pytest.fixture(scope="module")
def commands() -> list[str]:
    """The commands in the block that starts the embedded server."""
    blocks = re.findall(r"^```\n(.*?)^```", (_ROOT / "README.md").read_text(), re.M | re.S)
    (block,) = [block for block in blocks if block.startswith("ssd serve ")]
    return re.sub(r"(\\|\|)\n\s*", r"\1 ", block).replace("\\ ", " ").splitlines()


@pytest.mark.slow
def test_the_server_curl_and_the_client(commands, blob_model, picture, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    replaced = {
        r"^ssd ": f"{shlex.quote(sys.executable)} -c {shlex.quote(_SSD)} ",
        r"output/sample/serving/ssd": shlex.quote(str(blob_model)),
        r"\b8501\b": str(port),
        r"IMAGE(\.\.\.)?|PHOTOS_DIR": shlex.quote(str(picture)),
    }
    for pattern, value in replaced.items():
        commands = [re.sub(pattern, lambda _, v=value: v, command) for command in commands]
    start, *others = commands
    # The client draws into its working folder.
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    server = subprocess.Popen(f"exec {start}", shell=True, cwd=_ROOT, env=env)
    try:
        deadline = time.monotonic() + 300
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        printed = [
            subprocess.run(
                command,
                shell=True,
                executable="/bin/bash",
                cwd=tmp_path,
                env=env,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for command in others
        ]
    finally:
        server.terminate()
        assert server.wait(60) == 0
    curl, client = printed
    (found,) = json.loads(curl)["predictions"]
    assert found["detection_class_names"][:2] == ["red", "blue"]
    assert "blobs.detections" in client
