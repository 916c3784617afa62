"""Every error that the project raises on purpose, with the HTTP status that it becomes.

    LearnwareError                500  something failed inside
    ├── InvalidInput              400  the caller sent, or the operator wrote, something that cannot be used
    │   ├── InvalidConfig         400  a configuration file or option
    │   ├── InvalidLearnware      400  a learnware's folder: adapter, card or specification
    │   │   └── DuplicateLearnware 409  two learnwares with one id, or one that is in the market already
    │   ├── InvalidSpecification  400  a specification's shapes, values, type or encoder
    │   └── TooLarge              413  a body larger than the configuration allows
    ├── Unauthorized              401  the key that a request needs is missing or another one
    ├── Forbidden                 403  what no key of this stack allows
    ├── UnknownModel              404  a model, learnware or task id that is not served
    │   └── UnknownLearnware      404  a learnware that is not in the market
    ├── Overloaded                429  more requests than the router can decide on in time
    ├── RouterUnavailable         503  no router lives that could decide
    ├── NotReady                  503  the stack is still starting
    ├── AdapterUnavailable        503  a learnware's adapter could not be loaded
    ├── MarketBusy                503  another process is changing the market
    ├── StoreFull                 507  no more task specifications are kept
    └── StartupError              503  the stack cannot start here: busy port, missing base model

Messages say what was wrong and what would be right. One place (`serving.openai_errors`) makes them OpenAI error
objects.
"""


class LearnwareError(Exception):
    """The root: an internal failure. `type` and `code` are the fields of an OpenAI error object; `retry_after_s`, if
    there is one, is its `Retry-After` header, whole seconds."""

    status = 500
    type = "internal_error"
    code: str | None = None
    retry_after_s: int | None = None


class InvalidInput(LearnwareError):
    status = 400
    type = "invalid_request_error"


class InvalidConfig(InvalidInput):
    code = "invalid_config"


class InvalidLearnware(InvalidInput):
    code = "invalid_learnware"


class DuplicateLearnware(InvalidLearnware):
    status = 409
    code = "duplicate_learnware"


class InvalidSpecification(InvalidInput):
    code = "invalid_specification"


class TooLarge(InvalidInput):
    status = 413
    code = "body_too_large"


class Unauthorized(LearnwareError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(LearnwareError):
    status = 403
    type = "permission_error"
    code = "forbidden"


class UnknownModel(LearnwareError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownLearnware(UnknownModel):
    code = "learnware_not_found"


class MarketBusy(LearnwareError):
    status = 503
    type = "service_unavailable"
    code = "market_busy"


class StoreFull(LearnwareError):
    status = 507
    type = "invalid_request_error"
    code = "store_full"


class StartupError(LearnwareError):
    status = 503
    type = "service_unavailable"
    code = "startup_failed"


class Overloaded(LearnwareError):
    status = 429
    type = "rate_limit_error"
    code = "router_overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RouterUnavailable(LearnwareError):
    status = 503
    type = "service_unavailable"
    code = "router_unavailable"
    retry_after_s = 2
    """Ray looks after its replicas each second; a new router needs some seconds to come up."""


class NotReady(LearnwareError):
    status = 503
    type = "service_unavailable"
    code = "not_ready"


class AdapterUnavailable(LearnwareError):
    status = 503
    type = "service_unavailable"
    code = "adapter_unavailable"
