"""What can go wrong, as the caller sees it: one status, type and code for each, in the OpenAI shape."""

from __future__ import annotations

import math
from typing import Any


class ApiError(Exception):
    """An answer other than 200. ``retry_after`` is in seconds; None where trying again later would not help."""

    def __init__(
        self,
        status: int,
        kind: str,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """``Retry-After`` in whole seconds, rounded up and at least 1: 0 would invite a busy loop."""
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after)))}


def invalid(code: str, message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "invalid_request_error", code, message, param=param)


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


def draining() -> ApiError:
    return ApiError(503, "server_error", "worker_draining", "this worker is shutting down; try another one")


def model_loading(message: str, retry_after: float) -> ApiError:
    return ApiError(503, "server_error", "model_loading", message, retry_after=retry_after)


def model_failed(model: str, reason: str, detail: str, retry_after: float) -> ApiError:
    message = f"model {model!r} could not be loaded: {reason}: {detail}"
    return ApiError(503, "server_error", "model_failed", message, retry_after=retry_after)


def engine(code: str, message: str) -> ApiError:
    """``code``: ``engine_crashed``, ``out_of_memory`` or ``generation_failed``."""
    return ApiError(500, "server_error", code, message)
