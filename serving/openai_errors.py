"""OpenAI error objects, made from the project's errors."""

from starlette.responses import JSONResponse

from specs.errors import LearnwareError


def openai_error(error: LearnwareError) -> JSONResponse:
    """Returns the response for an error: an OpenAI error object with the error's own HTTP status, and `Retry-After`
    where it has one. Every error that a client sees from Python goes through here."""
    content = {"error": {"message": str(error), "type": error.type, "param": None, "code": error.code}}
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(content, status_code=error.status, headers=headers)
