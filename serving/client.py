"""Detects objects in pictures with a model server: ours or TensorFlow Serving, REST or gRPC.

ssd client PICTURE... --url http://localhost:8501 --model ssd
ssd client PICTURE... --url grpc://localhost:8500 --model ssd --format json
ssd client PICTURE... --label canary
"""

import argparse
import http.client
import json
import random
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, quote, urlsplit

from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.saved_model import OUTPUTS
from serving.detecting import Refused
from serving.detections import detections_of
from serving.picture_arguments import add_picture_arguments, detect, thresholds_of

_LONGEST_WAIT_S = 30.0
# Status codes that blame the pictures of a request: bad ones, or too many bytes.
_REFUSALS = (400, 413)


class _Unavailable(Exception):
    """The server is busy or cannot be reached: worth a retry, after `wait_s` if given."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Client:
    """A model on a server.

    `url` is `http://host:port`, `https://...`, or `grpc://host:port`. `label` chooses the version;
    without it the highest served answers. A request is retried when the server answers 503 or
    cannot be reached, after waits that double from 0.25 s. All methods raise DataError if there is
    no answer, or an error.
    """

    def __init__(
        self,
        url: str,
        model: str,
        timeout_s: float = 30.0,
        retries: int = 4,
        wait_s: float = 0.25,
        label: str | None = None,
    ) -> None:
        parts = _address(url)
        self._url = url.rstrip("/")
        self._model = model
        self._label = label
        self._timeout_s = timeout_s
        self._retries = retries
        self._wait_s = wait_s
        self._predict: Callable[[Sequence[bytes]], list[dict]] = self._rest
        if parts.scheme == "grpc":
            self._predict = self._connect_grpc(parts.netloc)

    def predict(self, pictures: Sequence[bytes]) -> list[dict]:
        """The model's outputs (`data.saved_model.OUTPUTS`) for each encoded picture.

        All pictures go in one request.
        """
        return self._with_retries(lambda: self._predict(pictures))

    def _with_retries(self, ask: Callable[[], list[dict]]) -> list[dict]:
        attempt = 0
        while True:
            try:
                return ask()
            except _Unavailable as error:
                attempt += 1
                if attempt > self._retries:
                    raise DataError(
                        f"{self._url}: {error}, {attempt} times. Check that the server is "
                        "running, and its load."
                    ) from error
                # Jitter keeps clients that were refused together from returning together.
                wait_s = self._wait_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                time.sleep(min(max(wait_s, error.wait_s or 0.0), _LONGEST_WAIT_S))

    def _rest(self, pictures: Sequence[bytes]) -> list[dict]:
        instances = [{"image_bytes": {"b64": b64encode(picture).decode()}} for picture in pictures]
        label = "" if self._label is None else f"/labels/{quote(self._label, safe='')}"
        request = urllib.request.Request(
            f"{self._url}/v1/models/{quote(self._model, safe='')}{label}:predict",
            json.dumps({"instances": instances}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                answer = json.loads(response.read())
        except urllib.error.HTTPError as error:
            message = _error_text(error.read())
            if error.code == 503:
                wait = error.headers.get("Retry-After", "")
                seconds = float(wait) if wait.isdigit() else None
                raise _Unavailable(f"the server is busy ({message})", seconds) from error
            kind = Refused if error.code in _REFUSALS else DataError
            raise kind(f"{self._url}: {error.code} {message}") from error
        except TimeoutError as error:
            raise self._timed_out() from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._timed_out() from error
            raise _Unavailable(f"no connection ({error.reason})") from error
        except (ConnectionError, http.client.HTTPException) as error:
            raise _Unavailable(f"connection lost ({error!r})") from error
        except ValueError as error:
            raise self._no_prediction() from error
        if not isinstance(answer, dict) or not isinstance(answer.get("predictions"), list):
            raise self._no_prediction()
        return self._checked(answer["predictions"], len(pictures))

    def _connect_grpc(self, address: str) -> Callable[[Sequence[bytes]], list[dict]]:
        # These import TensorFlow, which REST does without.
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        channel = grpc.insecure_channel(
            address, [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
        )
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def predict(pictures: Sequence[bytes]) -> list[dict]:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = self._model
            if self._label is not None:
                request.model_spec.version_label = self._label
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(pictures)))
            try:
                response = stub.Predict(request, timeout=self._timeout_s)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    raise _Unavailable(f"no connection ({error.details()})") from error
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise self._timed_out() from error
                refused = error.code() == grpc.StatusCode.INVALID_ARGUMENT
                kind = Refused if refused else DataError
                message = f"{error.code().name} {_one_line(error.details())}"
                raise kind(f"{self._url}: {message}") from error
            outputs = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
            count = len(pictures)
            whole = all(array.shape[:1] == (count,) for array in outputs.values())
            rows = range(count if whole else 0)
            answers = [{name: array[i] for name, array in outputs.items()} for i in rows]
            return self._checked(answers, count)

        return predict

    def _checked(self, answers: list, count: int) -> list[dict]:
        fits = len(answers) == count and all(
            isinstance(answer, dict) and answer.keys() >= set(OUTPUTS) for answer in answers
        )
        if not fits:
            raise DataError(
                f"{self._url}: model {self._model} does not answer {', '.join(OUTPUTS)} for each "
                "picture. Name a model that this pipeline has pushed."
            )
        try:
            for answer in answers:
                detections_of(answer, 0.0)
        except DataError as error:
            message = f"{self._url}: model {self._model} gives an inconsistent answer: {error}"
            raise DataError(f"{message} Check which model is served under this name.") from error
        return answers

    def _no_prediction(self) -> DataError:
        return DataError(f"{self._url}: the answer is not a prediction. Is it a model server?")

    def _timed_out(self) -> DataError:
        return DataError(
            f"{self._url}: no answer within {self._timeout_s:g} s. Raise --timeout, or send fewer "
            "pictures at a time with --batch-size."
        )


def _address(url: str) -> SplitResult:
    """The parts of a server's URL; DataError if it is not one."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https", "grpc") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or any(character.isspace() for character in url):
        raise DataError(f"{url}: not a server's URL. Give http://host:port or grpc://host:port.")
    return parts


def _error_text(body: bytes) -> str:
    try:
        return _one_line(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:200].decode("utf-8", "replace")


def _one_line(text: str) -> str:
    """The first line of a message: TensorFlow appends others about nodes of the graph."""
    return text.strip().partition("\n")[0]


@as_command
def main(arguments: Arguments = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_picture_arguments(
        parser,
        "pictures per request; TensorFlow Serving refuses more than max_batch_size in its "
        "batching.config, here 8 (default: %(default)s)",
    )
    parser.add_argument("--url", default="http://localhost:8501")
    parser.add_argument("--model", default="ssd", help="name of the model on the server")
    parser.add_argument("--label", help="label of the version to ask, such as stable or canary")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds per request")
    parser.add_argument("--retries", type=int, default=4, help="if the server is busy or down")
    options = parser.parse_args(arguments)
    quiet()
    client = Client(
        options.url, options.model, options.timeout, options.retries, label=options.label
    )
    return detect(options, client.predict, thresholds_of(options))


if __name__ == "__main__":
    sys.exit(main())
