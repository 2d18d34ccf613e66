"""Errors as a client is sent them: the shape of OpenAI's."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that is not carried out.

    Args:
        status: of HTTP.
        message: what is wrong, and what to do.
        param: which parameter is to blame.
        code: a word for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """Return the response's JSON."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


def model_failed(message: str) -> ApiError:
    """Return the error of a model that failed while it wrote an answer."""
    return ApiError(500, message, code="model_failed")


def stopping() -> ApiError:
    """Return the error of a server that is being stopped."""
    return ApiError(
        503, "the server is being stopped", code="stopping", headers={"Retry-After": "5"}
    )
