"""What can go wrong, as the caller sees it: one status, type and code for each, in the OpenAI shape."""

from __future__ import annotations

import math
from typing import Any


class ApiError(Exception):
    """An answer other than 200.

    ``retry_after`` is in seconds; None where trying again later would not help. ``close``: the connection is of no use
    any more, since a body is on it that nobody will read.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.close = close

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """``Retry-After`` in whole seconds, rounded up and at least 1: 0 would invite a busy loop."""
        headers = {"connection": "close"} if self.close else {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        return headers


class InterruptedRequestError(ApiError):
    """This worker must go before the request is done.

    ``checkpoint``: in base64, from which another worker goes on; None where nothing was drawn yet. ``steps_done``: of
    all its pictures.
    """

    def __init__(self, checkpoint: str | None, steps_done: int) -> None:
        super().__init__(
            503, "server_error", "interrupted", "this worker must go; another one can draw the rest"
        )
        self.checkpoint = checkpoint
        self.steps_done = steps_done

    def progress(self) -> dict[str, Any]:
        """What another worker needs to go on."""
        known = {} if self.checkpoint is None else {"checkpoint": self.checkpoint}
        return {**known, "stepsDone": self.steps_done}

    def body(self) -> dict[str, Any]:
        return {**super().body(), **self.progress()}


def invalid(code: str, message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "invalid_request_error", code, message, param=param)


def body_too_large(limit: int) -> ApiError:
    message = f"the body is over {limit} bytes; send smaller pictures, or as JPEG or WebP"
    return ApiError(413, "invalid_request_error", "body_too_large", message, close=True)


def body_too_slow(seconds: float) -> ApiError:
    message = f"the body did not arrive within {seconds:g} s"
    return ApiError(408, "invalid_request_error", "body_too_slow", message, close=True)


def invalid_token(message: str) -> ApiError:
    return ApiError(401, "authentication_error", "invalid_token", message)


def wrong_caller(message: str) -> ApiError:
    return ApiError(403, "permission_error", "wrong_caller", message)


def model_not_allowed(model: str) -> ApiError:
    return ApiError(
        404,
        "invalid_request_error",
        "model_not_allowed",
        f"this worker does not serve model {model!r}",
        param="model",
    )


def queue_full(limit: int, work_seconds: float) -> ApiError:
    message = f"{limit} requests wait already; try another worker, or this one when its work is done"
    return ApiError(429, "rate_limit_error", "queue_full", message, retry_after=work_seconds)


def content_policy_violation() -> ApiError:
    message = "what was drawn failed the safety check and is not shown; ask for something else"
    return invalid("content_policy_violation", message)


def checkpoint_unusable(message: str) -> ApiError:
    return invalid("checkpoint_unusable", message, "resume")


def draining() -> ApiError:
    return ApiError(503, "server_error", "worker_draining", "this worker is shutting down; try another one")


def model_loading(message: str, retry_after: float) -> ApiError:
    return ApiError(503, "server_error", "model_loading", message, retry_after=retry_after)


def model_failed(model: str, reason: str, detail: str, retry_after: float) -> ApiError:
    message = f"model {model!r} could not be loaded: {reason}: {detail}"
    return ApiError(503, "server_error", "model_failed", message, retry_after=retry_after)


def model_suspended(model: str) -> ApiError:
    return ApiError(
        503, "server_error", "model_suspended", f"model {model!r} is suspended: it draws nothing for now"
    )


def engine(code: str, message: str) -> ApiError:
    """``code``: ``engine_crashed``, ``out_of_memory``, ``generation_failed`` or ``checkpoint_unusable``."""
    if code == "checkpoint_unusable":
        return checkpoint_unusable(message)
    return ApiError(500, "server_error", code, message)
