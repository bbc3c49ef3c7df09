"""Errors as the OpenAI API words them: one exception that carries all of a reply."""

import msgspec

INVALID_REQUEST = "invalid_request_error"
RATE_LIMIT = "rate_limit_error"
SERVER_ERROR = "server_error"
SUSPENDED = "model_suspended"

# openai-python obeys Retry-After only up to two minutes and then gives up waiting.
MAX_RETRY_AFTER_SECONDS = 120


class ApiError(Exception):
    """A request ends with an error reply.

    `retry_after` is in whole seconds; None where trying again does not help.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        retry_after: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.kind = kind
        self.param = param
        self.retry_after = retry_after
        self.headers = headers

    def body(self) -> bytes:
        return msgspec.json.encode(
            {
                "error": {
                    "message": self.message,
                    "type": self.kind,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )


def invalid(code: str, param: str | None, message: str) -> ApiError:
    """A 400 that says which parameter is wrong and how to mend it."""
    return ApiError(400, code, message, param=param)


def server_error(status: int, code: str, message: str, retry_after: int | None = None) -> ApiError:
    """The request was good; the fleet could not serve it."""
    return ApiError(status, code, message, kind=SERVER_ERROR, retry_after=retry_after)


class _ErrorFields(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _ErrorReply(msgspec.Struct):
    error: _ErrorFields


_reply_decoder = msgspec.json.Decoder(_ErrorReply)


def read_error(body: bytes) -> tuple[str, str]:
    """Code and message of an error reply in the OpenAI shape; empty where it has another shape."""
    try:
        fields = _reply_decoder.decode(body).error
    except msgspec.DecodeError:
        return "", ""
    return fields.code or "", fields.message or ""
