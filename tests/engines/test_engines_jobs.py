"""Conversions and the pipeline on real Flink and Spark."""

import errno
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tensorflow as tf

from components.evaluation import OVERALL, read_evaluation
from data.beam_runner import beam_arguments
from data.convert import convert
from data.options import ConversionOptions
from data.sample import SPLIT_LISTS, draw_sample
from data.schema import SAMPLE_SCHEMA, class_names, read_schema
from tests.engines.running import free_port, wait_for
from tests.forked_python import ForkedPython
from tests.sample_run import QUICK

pytestmark = pytest.mark.e2e

_CLASSES = class_names(read_schema(SAMPLE_SCHEMA))
_PICTURES = 44
_LISTS = [f"--{split}={name}" for split, names in SPLIT_LISTS.items() for name in names]


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    """The sample data set, with few pictures."""
    root = tmp_path_factory.mktemp("sample") / "voc"
    draw_sample(root, images=_PICTURES)
    return root


@pytest.fixture(scope="module")
def records(voc, tmp_path_factory) -> Path:
    """A folder converted in this process."""
    output = tmp_path_factory.mktemp("direct") / "records"
    convert(voc, output, ConversionOptions(classes=_CLASSES, **SPLIT_LISTS))
    return output


@pytest.fixture(scope="module")
def converted(records) -> dict[str, bytes]:
    """The files of that conversion."""
    return _files(records)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _convert(engine, voc: Path, output: Path, **options: object) -> ForkedPython:
    arguments = ["--voc", voc, "--output", output, *_LISTS, "--classes", *_CLASSES]
    return engine.start("-m", "data.convert", *arguments, *engine.options(**options))


def _finished(process: ForkedPython) -> tuple[int, str]:
    """Exit status and standard error, without progress lines."""
    status = process.wait(600)
    lines = process.stderr.read_text().splitlines()
    return status, "\n".join(line for line in lines if not re.match(r"(check|write): \d", line))


def test_a_conversion_writes_the_same_bytes(engine, voc, converted, tmp_path):
    status, stderr = _finished(_convert(engine, voc, tmp_path / "records"))
    assert (status, stderr) == (0, "")
    assert _files(tmp_path / "records") == converted


def test_bad_pictures_are_listed(engine, voc, tmp_path):
    broken = _linked(voc, tmp_path)
    picture = _picture(broken)
    picture.unlink()
    picture.write_bytes(b"not a JPEG")
    status, stderr = _finished(_convert(engine, broken, tmp_path / "records"))
    assert status == 2
    assert "1 of 44 pictures cannot be used, so nothing was written" in stderr
    assert str(picture) in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["voc"]


@pytest.mark.parametrize("stage", ["check", "write"])
def test_a_lost_worker_does_not_change_the_output(engine, voc, converted, tmp_path, stage):
    linked = _linked(voc, tmp_path)
    with _blocking(_picture(linked)) as picture:
        process = _convert(engine, linked, tmp_path / "records")
        if stage == "write":
            # Every picture is read once per stage; `check` ends with a mark for each.
            wait_for(lambda: picture.answer() or _done(tmp_path, "check") == _PICTURES)
        wait_for(picture.is_read)
        assert (_done(tmp_path, "check") == _PICTURES) == (stage == "write")
        assert engine.kill_workers()
        picture.release()
        status, stderr = _finished(process)
    if engine.name == "spark":
        # Spark retries tasks at once, with the worker that Beam caches.
        assert status == 2
        assert re.fullmatch(r"error: a Beam worker was lost: .*", stderr)
        assert [path.name for path in tmp_path.iterdir()] == ["voc"]
        return
    assert (status, stderr) == (0, "")
    written = _files(tmp_path / "records")
    # The report names the pictures' folder, which is a copy here.
    assert json.loads(written.pop("report.json"))["rejected"] == 0
    assert written == {name: content for name, content in converted.items() if name in written}
    assert len(written) == len(converted) - 1


# One signal per engine, since both take the same path afterwards.
_SIGNALS = {"flink": (signal.SIGINT, 130), "spark": (signal.SIGTERM, 143)}


def test_an_interruption_cancels_the_job(engine, voc, tmp_path):
    number, status = _SIGNALS[engine.name]
    linked = _linked(voc, tmp_path)
    with _blocking(_picture(linked)) as picture:
        process = _convert(engine, linked, tmp_path / "records")
        wait_for(picture.is_read)
        process.send_signal(number)
        found, stderr = _finished(process)
    assert found == status
    assert re.search(r"^cancelling job \S+ on localhost:\d+ \.\.\.$", stderr, re.M)
    assert re.search(r"^job \S+: cancelled$", stderr, re.M)
    assert [path.name for path in tmp_path.iterdir()] == ["voc"]


def test_a_missing_pool_is_a_one_line_error(engine, voc, tmp_path):
    port = free_port()
    options = {"environment_config": f"localhost:{port}"}
    status, stderr = _finished(_convert(engine, voc, tmp_path / "records", **options))
    assert status == 2
    assert re.fullmatch(
        rf"error: the engine's nodes find no pool of Python workers at localhost:{port}\b.*"
        r"python -m data\.worker_pool \(job .*",
        stderr,
    )


def test_workers_with_other_code_are_rejected(engine, voc, tmp_path, other_pool):
    options = {"environment_config": f"localhost:{other_pool}"}
    status, stderr = _finished(_convert(engine, voc, tmp_path / "records", **options))
    assert status == 2
    versions = r"code (\w{12}), Python 3\.\d+, TensorFlow [\d.]+, Beam [\d.]+"
    line = rf"error: the Beam worker on \S+ has {versions}; the job was submitted with {versions}\."
    found = re.fullmatch(f"{line} .*", stderr)
    assert found and found[1] != found[2]


_COUNT = """
import collections, os, sys
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
path, output, *options = sys.argv[1:]
with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
    _ = (
        pipeline
        | beam.io.ReadFromTFRecord(path)
        | beam.Map(lambda _: (os.getpid(), 1))
        | beam.CombinePerKey(sum)
        | beam.MapTuple(lambda pid, count: f"{pid} {count}")
        | beam.io.WriteToText(output, shard_name_template="")
    )
"""


def test_a_single_file_keeps_two_workers_busy(engine, tmp_path):
    """Only one worker can read a compressed file, but both process its records."""
    path, output = tmp_path / "records.gz", tmp_path / "counts"
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP")) as writer:
        for number in range(400):
            writer.write(b"%d" % number)
    options = engine.options(sdk_worker_parallelism=2)[3:]
    words = beam_arguments(engine.name, options)
    script = tmp_path / "count.py"
    script.write_text(_COUNT)
    status, stderr = _finished(engine.start(script, path, output, *words))
    assert status == 0, stderr
    counts = [int(line.split()[1]) for line in output.read_text().splitlines()]
    assert sum(counts) == 400
    assert min(counts) >= 100


def test_the_pipeline_gives_the_same_results(engine, first, tmp_path):
    assert first.status == 0, first.stderr
    (records,) = (first.output / "records").iterdir()
    output = tmp_path / "output"
    settings = [word for value in (*QUICK, "evaluator.min_map=0") for word in ("--set", value)]
    arguments = ("--data", records, "--output", output, *settings)
    process = engine.start("local_runner.py", *arguments, *engine.options())
    status = process.wait(1800)
    assert (status, process.stderr.read_text()) == (0, ""), process.stdout.read_text()
    assert _results(output) == _results(first.output)


def _results(output: Path) -> dict:
    """Examples by split, the gate's report and the scores of the first run in a folder."""
    pipeline = output / "pipeline"
    evaluation = read_evaluation(_first(pipeline / "Evaluator" / "evaluation"))
    scores = evaluation.candidate[OVERALL]
    assert len(scores) > len(_CLASSES)
    report = _first(pipeline / "DataGate" / "report") / "data_gate.json"
    return {
        "examples": _files(_first(pipeline / "ImportExampleGen" / "examples")),
        "gate": json.loads(report.read_text()),
        "scores": {name: repr(score) for name, score in scores.items()},
    }


def _first(folder: Path) -> Path:
    """A component's first output: other tests use the run's folder as well."""
    return min(folder.iterdir(), key=lambda path: int(path.name))


def _linked(voc: Path, folder: Path) -> Path:
    """A copy of the data set, made of hard links."""
    copy = folder / "voc"
    subprocess.run(["cp", "-rl", voc, copy], check=True)
    return copy


def _picture(voc: Path) -> Path:
    return min(voc.glob("**/JPEGImages/*.jpg"))


def _done(folder: Path, stage: str) -> int:
    marks = folder.glob(f".records.*.partial/marks/{stage}-*")
    return sum(path.stat().st_size for path in marks)


class _BlockingPicture:
    """A named pipe in place of a picture: reading it blocks until `answer` or `release`."""

    def __init__(self, path: Path):
        self._path = path
        self._content = path.read_bytes()
        self._writer: int | None = None
        path.unlink()
        os.mkfifo(path)

    def is_read(self) -> bool:
        """Whether a worker has opened the pipe; once true, the worker blocks."""
        if self._writer is None:
            try:
                self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
        return self._writer is not None

    def answer(self) -> None:
        """Sends the picture to a blocked reader; the next reader blocks again."""
        if self.is_read():
            self._path.unlink()
            os.mkfifo(self._path)
            os.write(self._writer, self._content)
            os.close(self._writer)
            self._writer = None

    def release(self) -> None:
        """Puts the picture back."""
        whole = self._path.with_suffix(".whole")
        whole.write_bytes(self._content)
        whole.replace(self._path)
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None


@contextmanager
def _blocking(path: Path) -> Iterator[_BlockingPicture]:
    picture = _BlockingPicture(path)
    try:
        yield picture
    finally:
        picture.release()
