"""One-line errors from the messages of engines: pages of Java with Python inside."""

import pytest

from data.engine_errors import is_hopeless, job_error

_POOL = "localhost:50000"

_JAVA = """\
org.apache.flink.runtime.client.JobExecutionException: Job execution failed.
\tat org.apache.flink.runtime.jobmaster.JobResult.toJobExecutionResult(JobResult.java:144)
Caused by: java.util.concurrent.ExecutionException: {cause}
\tat java.base/java.util.concurrent.CompletableFuture.reportGet(CompletableFuture.java:396)
Caused by: {cause}
\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient.onNext(Client.java:180)
\t... 1 more

"""
_PYTHON = """\
java.lang.RuntimeException: Error received from SDK harness for instruction 24: \
Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1499, in apache_beam.runners.common.DoFnRunner.process
  File "/code/data/conversion.py", line 16, in check
    raise Error(text)
{error}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/venv/apache_beam/runners/worker/sdk_worker.py", line 310, in _execute
    response = task()
  File "/code/data/conversion.py", line 16, in check
    raise Error(text)
{error} [while running 'Map(check)']
"""


def _texts(cause):
    """As a job server sends them: the traceback, then the root cause."""
    return [_JAVA.format(cause=cause), cause]


def _message(texts):
    return str(job_error(texts, "BeamApp-1", "localhost:8099", _POOL))


@pytest.mark.parametrize("message", ["a.xml: box 2: bad. Fix it", "2 of 4 are bad:\n  one\n  two"])
def test_a_data_error_is_the_whole_message(message):
    texts = _texts(_PYTHON.format(error=f"data.errors.DataError: {message}"))
    assert _message(texts) == message
    assert _message(texts[:1]) == message
    assert _message(texts[1:]) == message


def test_other_exceptions_are_shown_with_their_line():
    message = _message(_texts(_PYTHON.format(error="KeyError: 'dog'")))
    assert message.startswith("a Beam worker failed: KeyError: 'dog' (/code/data/conversion.py:16)")
    assert "job BeamApp-1 on localhost:8099" in message
    assert "same paths" not in message
    assert "\n" not in message


def test_a_volume_missing_on_the_workers():
    error = "FileNotFoundError: [Errno 2] No such file or directory: '/mnt/ssd/pictures.pickles'"
    message = _message(_texts(_PYTHON.format(error=error)))
    assert "/mnt/ssd/pictures.pickles" in message
    assert "Workers must see the same paths as this machine" in message


def test_too_few_network_buffers_name_the_two_settings():
    cause = (
        "java.io.IOException: Insufficient number of network buffers: required 512, but only 498 "
        "available. The total number of network buffers is currently set to 2048."
    )
    message = _message(_texts(cause))
    assert "512 required, 498 available" in message
    assert "taskmanager.network.sort-shuffle.min-buffers: 64" in message
    assert "taskmanager.memory.network.min and .max: 256mb" in message
    assert "\n" not in message


def test_a_missing_pool_is_named_with_its_address():
    whole = (
        "Caused by: org.apache.beam.vendor.grpc.StatusRuntimeException: UNAVAILABLE: io exception\n"
        "\tat org.apache.beam.model.fnexecution.v1.BeamFnExternalWorkerPoolGrpc.startWorker(X:1)\n"
        "Caused by: AnnotatedConnectException: finishConnect(..) failed: Connection refused: "
        "localhost/127.0.0.1:50000\n"
    )
    message = _message([whole, "java.net.ConnectException: finishConnect(..) failed: refused"])
    assert message.startswith(f"the engine's nodes find no pool of Python workers at {_POOL}")
    assert "python -m data.worker_pool" in message


def test_workers_too_old_to_compare_versions():
    error = "ModuleNotFoundError: No module named 'data.worker_code'"
    assert "older version" in _message(_texts(_PYTHON.format(error=error)))


_LOST = "org.apache.beam.vendor.grpc.StatusRuntimeException: CANCELLED: client cancelled"


def test_a_lost_worker():
    message = _message(_texts(_LOST))
    assert message.startswith("a Beam worker was lost: killed, or out of memory")
    assert "restart strategy" in message
    assert "\n" not in message


def test_only_recurring_failures_are_hopeless():
    """A retry may help after a lost worker or an unknown cause."""
    bad_data = _JAVA.format(cause=_PYTHON.format(error="data.errors.DataError: a.xml: bad"))
    no_pool = "startWorker(BeamFnExternalWorkerPoolGrpc.java:221)\nUNAVAILABLE: io exception"
    assert is_hopeless(bad_data)
    assert is_hopeless(no_pool)
    assert not is_hopeless(_JAVA.format(cause=_LOST))
    assert not is_hopeless(_JAVA.format(cause=_PYTHON.format(error="OSError: disk is full")))


def test_an_unknown_failure_is_shown_in_full():
    cause = (
        "org.apache.flink.util.FlinkException: TaskExecutor 10.0.0.1 has no more allocated slots "
        "for the job, which needs 4 of them, after a wait of 300 s in the resource manager"
    )
    message = _message(_texts(cause))
    assert "after a wait of 300 s in the resource manager" in message
    assert "\n" not in message and "\tat" not in message
