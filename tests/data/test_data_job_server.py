"""The runner for job servers, without an engine: what it sends, and when it gives up."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import grpc
import pytest
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import (
    beam_job_api_pb2,
    beam_job_api_pb2_grpc,
    beam_runner_api_pb2,
)
from tfx_bsl.public import tfxio

from data import flink_rest, worker_code
from data import job_server as job_server_module
from data.beam_runner import IN_PROCESS, beam_arguments
from data.errors import DataError

_RESHUFFLE = common_urns.composites.RESHUFFLE.urn
_CANCELLED = beam_job_api_pb2.JobState.CANCELLED
_RUNNING = beam_job_api_pb2.JobState.RUNNING


class _JobServer(beam_job_api_pb2_grpc.JobServiceServicer):
    """Accepts a job, which runs until it is cancelled."""

    def __init__(self, options=()):
        self.options = options
        self.pipeline = None
        self.cancelled = threading.Event()

    def DescribePipelineOptions(self, request, context):
        descriptors = [beam_job_api_pb2.PipelineOptionDescriptor(name=n) for n in self.options]
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=descriptors)

    def Prepare(self, request, context):
        self.pipeline = request.pipeline
        return beam_job_api_pb2.PrepareJobResponse(preparation_id="prepared")

    def Run(self, request, context):
        return beam_job_api_pb2.RunJobResponse(job_id="job-1_2")

    def GetState(self, request, context):
        state = _CANCELLED if self.cancelled.is_set() else _RUNNING
        return beam_job_api_pb2.JobStateEvent(state=state)

    def GetStateStream(self, request, context):
        yield beam_job_api_pb2.JobStateEvent(state=_RUNNING)
        self.cancelled.wait()
        yield beam_job_api_pb2.JobStateEvent(state=_CANCELLED)

    def GetMessageStream(self, request, context):
        self.cancelled.wait()
        yield from ()

    def Cancel(self, request, context):
        assert request.job_id == "job-1_2"
        self.cancelled.set()
        return beam_job_api_pb2.CancelJobResponse(state=_CANCELLED)


@pytest.fixture
def job_server():
    servicer = _JobServer()
    server = grpc.server(ThreadPoolExecutor(8))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("localhost:0")
    server.start()
    yield servicer
    servicer.cancelled.set()
    server.stop(0)


def _pipeline(*options, preset="spark"):
    words = IN_PROCESS if preset == "direct" else beam_arguments(preset, options)
    return beam.Pipeline(options=PipelineOptions(list(words)))


def _reads(pipeline, path):
    """Reads like those of TFX's executors and of our components."""
    path.touch()
    source = tfxio.TFExampleRecord(str(path), telemetry_descriptors=["test"]).RawRecordBeamSource()
    _ = pipeline | "Tfx" >> source | "Batches" >> beam.Map(len)
    _ = pipeline | "Own" >> beam.io.ReadFromTFRecord(str(path)) | beam.Map(len)
    return pipeline.to_runner_api()


@pytest.mark.parametrize(("preset", "spread"), [("flink", 2), ("spark", 2), ("direct", 0)])
def test_reads_are_spread_over_workers(preset, spread, tmp_path):
    """Not in this process, where a Reshuffle would hold all pictures at once."""
    transforms = _reads(
        _pipeline(preset=preset), tmp_path / "records.gz"
    ).components.transforms.values()
    found = [t.unique_name for t in transforms if t.spec.urn == _RESHUFFLE]
    assert sum(name.endswith("/Spread") for name in found) == spread


def test_every_dofn_is_sealed(job_server, monkeypatch):
    pipeline = _pipeline(f"--job_endpoint=localhost:{job_server.port}")
    _ = pipeline | beam.Create([1]) | beam.Map(len)
    pipeline.run()
    payloads = [
        beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload).do_fn
        for transform in job_server.pipeline.components.transforms.values()
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn
    ]
    pickled = [fn.payload for fn in payloads if fn.urn == python_urns.PICKLED_DOFN_INFO]
    assert len(pickled) >= 2
    for payload in pickled:
        pickler.loads(payload)
    monkeypatch.setattr(worker_code, "versions", lambda: "code 0")
    for payload in pickled:
        with pytest.raises(DataError, match="has code 0; the job was submitted with code"):
            pickler.loads(payload)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_cancels_the_job(job_server, capsys, number, error):
    before = signal.getsignal(number)
    pipeline = _pipeline(f"--job_endpoint=localhost:{job_server.port}")
    _ = pipeline | beam.Create([1])
    result = pipeline.run()
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    with pytest.raises(error) as raised:
        result.wait_until_finish()
    assert number == signal.SIGINT or raised.value.code == 143
    assert job_server.cancelled.is_set()
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err.splitlines() == [
        f"cancelling job job-1_2 on localhost:{job_server.port} ...",
        "job job-1_2: cancelled",
    ]


def test_a_job_that_may_still_run_on_flink_is_not_reported_as_cancelled(job_server, capsys):
    job_server.options = ("flink_master",)
    words = (f"--job_endpoint=localhost:{job_server.port}", "--flink_master=localhost:9")
    pipeline = _pipeline(*words, preset="flink")
    _ = pipeline | beam.Create([1])
    result = pipeline.run()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        result.wait_until_finish()
    said = capsys.readouterr().err
    assert "perhaps still running, since Flink does not answer at localhost:9" in said
    assert "--flink_master=" in said


@pytest.mark.parametrize(
    ("failure", "ends"),
    [
        ("Caused by: Error\ndata.errors.DataError: a.xml: bad. Fix it\n\tat X", True),
        ("StatusRuntimeException: CANCELLED: client cancelled", False),
    ],
)
def test_flink_does_not_retry_hopeless_jobs(job_server, monkeypatch, failure, ends):
    job_server.options = ("flink_master",)
    asked, cancelled = [], []

    def last_failure(where, name):
        asked.append(name)
        if len(asked) == 2 and not ends:
            job_server.cancelled.set()
        return failure

    monkeypatch.setattr(job_server_module, "_SECONDS_BETWEEN_QUESTIONS", 0.1)
    monkeypatch.setattr(flink_rest, "failure", last_failure)
    monkeypatch.setattr(flink_rest, "cancel", lambda where, name, _: cancelled.append(name))
    pipeline = _pipeline(f"--job_endpoint=localhost:{job_server.port}", preset="flink")
    _ = pipeline | beam.Create([1])
    message = "^a.xml: bad. Fix it$" if ends else "job job-1_2 on"
    with pytest.raises(DataError, match=message):
        pipeline.run().wait_until_finish()
    assert asked == ["job-1"] * (1 if ends else 2)
    assert cancelled == ["job-1"] * ends


def _run(endpoint):
    pipeline = _pipeline(f"--job_endpoint={endpoint}")
    _ = pipeline | beam.Create([1])
    started = time.monotonic()
    try:
        pipeline.run()
    finally:
        # Beam itself waits for a minute.
        assert time.monotonic() - started < 30


def test_no_job_server():
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        port = sock.getsockname()[1]
    with pytest.raises(DataError, match=rf"localhost:{port}: no Beam job server.*make flink"):
        _run(f"localhost:{port}")


def test_an_option_unknown_to_beam_and_job_server(job_server):
    job_server.options = ("parallelism",)
    endpoint = f"--job_endpoint=localhost:{job_server.port}"
    pipeline = _pipeline(endpoint, "--paralelism=8")
    _ = pipeline | beam.Create([1])
    with pytest.raises(DataError, match="--paralelism: neither Beam nor.*did you mean parallelism"):
        pipeline.run()
    pipeline = _pipeline(endpoint, "--parallelism=8")
    _ = pipeline | beam.Create([1])
    pipeline.run()


@pytest.mark.slow
def test_another_service_at_the_job_endpoint():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(DataError, match=rf"localhost:{port}: not a Beam job server"):
            _run(f"localhost:{port}")


@pytest.mark.parametrize("endpoint", ["localhost", ":8099", "localhost:http"])
def test_invalid_endpoints(endpoint):
    with pytest.raises(DataError, match=f"--job_endpoint={endpoint}: write HOST:PORT"):
        _run(endpoint)
