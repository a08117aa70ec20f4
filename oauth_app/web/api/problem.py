"""What the API answers when it refuses: a code for programs and a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class ApiProblem(Exception):
    """A request that is refused.

    Attributes:
        status: the HTTP status.
        code: one word for programs, such as ``not_found``.
        message: a sentence; never repeats a secret.
    """

    def __init__(self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """The answer to send."""
        body = {"code": self.code, "message": self.message}
        return JSONResponse(body, status_code=self.status, headers={**NO_STORE, **self.headers})


def problem_of_status(status: int, headers: Mapping[str, str] | None = None) -> ApiProblem:
    """What a refusal of the router means: no such address, or not with this method."""
    if status == 405:
        return ApiProblem(405, "method_not_allowed", "This address is not used with that method.", headers=headers)
    if status == 404:
        return ApiProblem(404, "not_found", "There is no such address. See /api/openapi.json.", headers=headers)
    return ApiProblem(status, "refused", "The request cannot be answered.", headers=headers)
