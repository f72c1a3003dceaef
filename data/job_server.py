"""Runs Beam jobs on an engine such as Flink or Spark, through its job server.

`--runner=data.job_server.JobServerRunner` is Beam's PortableRunner with what cluster users need:
reads are spread over all workers, workers with other code are refused, an interrupt cancels the
job, and an error is one line that says what to do.
"""

import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.portability import python_urns
from apache_beam.portability.api import (
    beam_job_api_pb2,
    beam_job_api_pb2_grpc,
    beam_runner_api_pb2,
)
from apache_beam.runners.portability import portable_runner
from apache_beam.runners.portability.fn_api_runner.translations import PAR_DO_URNS

from data import flink_rest
from data.engine_errors import is_hopeless, job_error, no_job_server, not_a_job_server
from data.errors import DataError, did_you_mean
from data.worker_code import sealed

# To notice that nothing is there; even a distant cluster answers much faster.
_CONNECT_SECONDS = 4
_CANCEL_SECONDS = 30
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BETWEEN_QUESTIONS = 1


class JobServerRunner(portable_runner.PortableRunner):
    """Submits a pipeline to the job server at `--job_endpoint`."""

    def apply(
        self, transform: beam.PTransform, input: beam.pvalue.PValue, options: PipelineOptions
    ) -> beam.pvalue.PValue:
        """Applies a transform, and spreads what it reads over the workers.

        Engines fuse a read with the steps that follow, and compressed files cannot be split, so
        otherwise only as many workers as there are files would do all the work.
        """
        output = super().apply(transform, input, options)
        if isinstance(transform, beam.io.ReadFromTFRecord):
            output = output | "Spread" >> beam.Reshuffle()
        return output

    def run_portable_pipeline(
        self, pipeline: beam_runner_api_pb2.Pipeline, options: PipelineOptions
    ) -> "PortableJob":
        """Starts the job.

        Raises:
            DataError: there is no job server, or neither it nor Beam knows one of the options.
        """
        portable = options.view_as(PortableOptions)
        servers_options = _options_of(portable.job_endpoint)
        _check_known(options, servers_options)
        on_flink = "flink_master" in servers_options
        _seal(pipeline)
        # Java does not know this class.
        options.view_as(StandardOptions).runner = None
        pipeline = self._optimize_pipeline(pipeline, options)
        handle = self.create_job_service(options)
        with _stops_kept() as stops:
            job_id, messages, states = handle.submit(pipeline)
            job = PortableJob(handle.job_service, job_id, messages, states, portable, on_flink)
        job.cancel_if(stops)
        return job


class PortableJob(portable_runner.PipelineResult):
    """A job on an engine, until it is done, failed or cancelled."""

    def __init__(
        self,
        job_service: beam_job_api_pb2_grpc.JobServiceStub,
        job_id: str,
        message_stream: Iterator[beam_job_api_pb2.JobMessagesResponse],
        state_stream: Iterator[beam_job_api_pb2.JobStateEvent],
        options: PortableOptions,
        on_flink: bool,
    ) -> None:
        super().__init__(job_service, job_id, self._kept(message_stream), state_stream)
        self._texts: list[str] = []
        self._options = options
        # Possible addresses of Flink's REST API, and the job's name there.
        self._flink = _flink_addresses(options) if on_flink else []
        self._name = job_id.rpartition("_")[0]

    def wait_until_finish(self, duration: int | None = None) -> str:
        """The final state. SIGINT and SIGTERM cancel the job first.

        Raises:
            DataError: the job failed.
        """
        outcome: queue.SimpleQueue = queue.SimpleQueue()

        def wait() -> None:
            try:
                outcome.put((super(PortableJob, self).wait_until_finish(duration), None))
            except Exception as error:
                outcome.put((None, error))

        waiting = threading.Thread(target=wait, daemon=True)
        with _stops_kept() as stops:
            waiting.start()
            looked = time.monotonic()
            while waiting.is_alive() and not stops:
                waiting.join(_SECONDS_BETWEEN_LOOKS)
                if self._flink and time.monotonic() - looked > _SECONDS_BETWEEN_QUESTIONS:
                    self._end_if_hopeless()
                    looked = time.monotonic()
        self.cancel_if(stops)
        state, error = outcome.get()
        if error:
            raise self._error(self._texts or [str(error)]) from error
        return state

    def _end_if_hopeless(self) -> None:
        """Raises DataError for a failure that would recur at every restart by Flink."""
        failure = flink_rest.failure(self._flink, self._name)
        if failure and is_hopeless(failure):
            flink_rest.cancel(self._flink, self._name, _CANCEL_SECONDS)
            raise self._error([failure])

    def _error(self, texts: Sequence[str]) -> DataError:
        where = (self._options.job_endpoint, self._options.environment_config)
        return job_error(texts, self._job_id, *where)

    def cancel_if(self, stops: Sequence[int]) -> None:
        """Cancels the job if there was a signal, and then handles the signal."""
        if stops:
            self._cancel_and_say()
            # A handler such as that of data.interrupts decides how the command ends.
            if callable(signal.getsignal(stops[0])):
                signal.raise_signal(stops[0])
            raise SystemExit(128 + stops[0])

    def _kept(
        self, messages: Iterator[beam_job_api_pb2.JobMessagesResponse]
    ) -> Iterator[beam_job_api_pb2.JobMessagesResponse]:
        """Passes messages on, and keeps their texts for `job_error`."""
        for message in messages:
            if message.HasField("message_response"):
                said = message.message_response
                self._texts.append(said.message_text)
                # Otherwise Beam logs the errors, which are pages long.
                said.importance = beam_job_api_pb2.JobMessage.JOB_MESSAGE_DEBUG
            yield message

    def _cancel_and_say(self) -> None:
        _say(f"cancelling job {self._job_id} on {self._options.job_endpoint} ...")
        try:
            state = self._cancel_on_flink() if self._flink else None
            self._job_service.Cancel(
                beam_job_api_pb2.CancelJobRequest(job_id=self._job_id), timeout=_CANCEL_SECONDS
            )
            if not self._flink:
                state = self._await_end()
        except grpc.RpcError as error:
            state = f"not cancelled: the job server does not answer ({error.code().name})"
        _say(f"job {self._job_id}: {state}")

    def _cancel_on_flink(self) -> str:
        state = flink_rest.cancel(self._flink, self._name, _CANCEL_SECONDS)
        if state is None:
            return (
                f"perhaps still running, since Flink does not answer at {self._flink[0]}. Cancel "
                "it on Flink's web page, and give its address next time: --flink_master=HOST:8081"
            )
        if state == "CANCELED":
            return "cancelled"
        return f"{state.lower()} after {_CANCEL_SECONDS} s"

    def _await_end(self) -> str:
        request = beam_job_api_pb2.GetJobStateRequest(job_id=self._job_id)
        deadline = time.monotonic() + _CANCEL_SECONDS
        while True:
            state = self._job_service.GetState(request, timeout=_CONNECT_SECONDS).state
            name = beam_job_api_pb2.JobState.Enum.Name(state).lower()
            if state in portable_runner.TERMINAL_STATES:
                return name
            if time.monotonic() > deadline:
                return f"{name} after {_CANCEL_SECONDS} s. Cancel it on the engine's web page"
            time.sleep(0.2)


def _seal(pipeline: beam_runner_api_pb2.Pipeline) -> None:
    """Makes every DoFn refuse to open in a worker with other code."""
    for transform in pipeline.components.transforms.values():
        if transform.spec.urn in PAR_DO_URNS:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            if payload.do_fn.urn == python_urns.PICKLED_DOFN_INFO:
                payload.do_fn.payload = sealed(payload.do_fn.payload)
                transform.spec.payload = payload.SerializeToString()


def _check_known(options: PipelineOptions, servers: set[str]) -> None:
    """Raises DataError for an option unknown to both Beam and job server: it would be ignored."""
    known = {*options.get_all_options(), *servers}
    for name in options.get_all_options(retain_unknown_options=True):
        if name not in known:
            endpoint = options.view_as(PortableOptions).job_endpoint
            raise DataError(
                f"--{name}: neither Beam nor the job server at {endpoint} has such an option; "
                f"{did_you_mean(name, known)}"
            )


def _options_of(endpoint: str) -> set[str]:
    """The names of the options that the job server knows.

    Raises:
        DataError: no job server answers there; Beam itself would wait for a minute.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise DataError(f"--job_endpoint={endpoint}: write HOST:PORT, as in localhost:8099")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise no_job_server(endpoint, error.strerror or str(error)) from error
    with grpc.insecure_channel(endpoint) as channel:
        stub = beam_job_api_pb2_grpc.JobServiceStub(channel)
        request = beam_job_api_pb2.DescribePipelineOptionsRequest()
        try:
            answer = stub.DescribePipelineOptions(request, timeout=_CONNECT_SECONDS)
        except grpc.RpcError as error:
            raise not_a_job_server(endpoint, error.code().name) from error
    return {option.name for option in answer.options}


def _flink_addresses(options: PortableOptions) -> list[str]:
    master = options.view_as(FlinkRunnerOptions).flink_master
    return flink_rest.addresses(master, options.job_endpoint)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _stops_kept() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of acting on them, in the main thread.

    An exception raised by the handler could be lost: Python drops those raised in a garbage
    collector callback.
    """
    stops: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    before = {
        number: signal.signal(number, lambda number, _: stops.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        # What the parent ignores stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
