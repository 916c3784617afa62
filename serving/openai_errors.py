"""The one place where an error becomes an answer: OpenAI's error object, with the error's own HTTP status."""

from starlette.responses import JSONResponse

from specs.errors import LearnwareError


def openai_error(error: LearnwareError) -> JSONResponse:
    """The one mapping of the project's errors to OpenAI error objects."""
    content = {"error": {"message": str(error), "type": error.type, "param": None, "code": error.code}}
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(content, status_code=error.status, headers=headers)
