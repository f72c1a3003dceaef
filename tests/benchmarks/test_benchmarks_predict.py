"""All sides of the benchmark process every picture; speed is not tested."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import predict
from data.saved_model import OUTPUTS


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with 11 pictures; the model records the size of each batch in `seen`."""
    predict.draw_pictures(tmp_path / "pictures", 11)
    seen = {"image_bytes": [], "images": []}

    def signature(name):
        def answer(**inputs):
            count = len(inputs[name])
            seen[name].append(count)
            arrays = (
                np.tile(np.float32([[[0, 0, 1, 1]]]), (count, 1, 1)),
                np.full((count, 1), 0.9, np.float32),
                np.ones((count, 1), np.int64),
                np.full((count, 1), b"thing"),
                np.ones(count, np.int64),
            )
            return dict(zip(OUTPUTS, map(tf.constant, arrays), strict=True))

        answer.structured_input_signature = ((), {name: None})
        answer.structured_outputs = dict.fromkeys(OUTPUTS)
        return answer

    signatures = {
        "serving_default": signature("image_bytes"),
        "serving_tensor": signature("images"),
    }
    monkeypatch.setattr(tf.saved_model, "load", lambda path: SimpleNamespace(signatures=signatures))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").touch()
    return tmp_path, seen


def test_all_sides_process_all_pictures_in_the_same_batches(place):
    folder, seen = place
    predict.bare_loop(folder, "serving_tensor")()
    predict.bare_loop(folder, "serving_default")()
    assert seen == {"images": [8, 3], "image_bytes": [8, 3]}
    predict.predict(folder)()
    assert sorted(seen["image_bytes"]) == [3, 3, 8, 8]
    lines = (folder / "found.jsonl").read_text().splitlines()
    assert len(lines) == 11
    assert all(json.loads(line)["detections"][0]["name"] == "thing" for line in lines)
    assert not (folder / "detections").exists()


def test_failed_pictures_are_not_measured(place):
    folder, _ = place
    (folder / "pictures" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="pictures failed"):
        predict.predict(folder)()
