"""The server process that a model is checked on, with another program in its place."""

import sys

from components.serving_check.server import started_server

# Prints its device setting and its arguments.
_PROGRAM = '#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" "$@" $(ls "${5#*=}"/1)\n'


def test_the_server_gets_a_copy_of_the_model_and_no_gpu(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").touch()
    monkeypatch.setattr(sys, "executable", str(program))
    with started_server(str(tmp_path / "model")) as server:
        assert server.process.wait(60) == 0
        device, *words, model = server.log.read_text().split()
    assert (device, model) == ("-1", "saved_model.pb")
    assert words[:2] == ["-m", "serving.server"]
    assert f"--rest_api_port={server.port}" in words
