"""The errors a server answers, by their canonical code, and what HTTP and gRPC make of them."""

# Canonical code -> HTTP status, as TensorFlow Serving maps them.
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}


class StatusError(Exception):
    """An answer other than OK: a canonical code (a key of `HTTP_STATUS`) and a message.

    `http_status` is the code's own unless HTTP has a better one.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.http_status = http_status or HTTP_STATUS[code]


def invalid(message: str) -> StatusError:
    """The error for a request that cannot be answered as it is."""
    return StatusError("INVALID_ARGUMENT", message)
