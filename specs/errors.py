"""Every error that the project raises on purpose, with the HTTP status that it becomes.

    LearnwareError                500  something failed inside
    ├── InvalidInput              400  the caller sent, or the operator wrote, something that cannot be used
    │   ├── InvalidConfig         400  a configuration file or option
    │   ├── InvalidLearnware      400  a learnware's folder: adapter, card or specification
    │   │   ├── DuplicateLearnware 409  two learnwares with one id, or one that is in the market already
    │   │   ├── CanaryRuns        409  a change of a learnware that its canary is in the way of
    │   │   └── CheckDied         400  a learnware whose check crashed, or needed too much memory or time
    │   ├── InvalidSpecification  400  a specification's shapes, values, type or encoder
    │   ├── TooLarge              413  a body larger than the configuration allows
    │   └── TooSlow               408  a body that did not arrive in time
    ├── Unauthorized              401  the key that a request needs is missing or another one
    ├── Forbidden                 403  what no key of this stack allows
    ├── UnknownModel              404  a model, learnware or task id that is not served
    │   └── UnknownLearnware      404  a learnware that is not in the market
    │       └── UnknownCanary     404  a canary that the learnware has not
    ├── UnknownDecision           404  a request id of which no decision is kept for this key
    ├── NotReplayable             409  a decision of which too little is kept to make it again
    ├── DecisionsUnavailable      503  the log of decisions cannot be read or written
    ├── UnknownPath               404  a path that is not there
    │   └── WrongMethod           405  a method that a path does not take
    ├── TaskQuotaReached          403  as many task specifications of one key as may be kept
    ├── Overloaded                429  more requests than the router can decide on in time
    ├── RateLimited               429  more than the caller may send now, or than this replica may hold
    ├── EngineUnavailable         503  the engine of this replica cannot serve
    ├── RouterUnavailable         503  no router lives that could decide
    ├── NotReady                  503  the stack is still starting
    ├── AdapterUnavailable        503  a learnware's adapter could not be loaded
    ├── EngineGone                502  the engine that had the request died or hung
    ├── AnswerTimeout             504  the engine took longer for a token than the configuration allows
    ├── MarketBusy                503  another process is changing the market
    ├── MarketFull                429  as many uploads as may wait are under way
    ├── MarketUnwritable          503  the market's disk is full, or cannot be written
    ├── StoreFull                 507  no more task specifications are kept
    └── StartupError              503  the stack cannot start here: busy port, missing base model

Messages say what was wrong and what would be right. One place (`serving.openai_errors`) makes them OpenAI error
objects.
"""


class LearnwareError(Exception):
    """Root of the project's errors; itself an internal failure. `type` and `code` are the fields of an OpenAI error
    object; `retry_after_s`, if there is one, is its `Retry-After` header in whole seconds."""

    status = 500
    type = "internal_error"
    code: str | None = None
    retry_after_s: int | None = None


class InvalidInput(LearnwareError):
    """The caller sent, or the operator wrote, something that cannot be used."""

    status = 400
    type = "invalid_request_error"


class InvalidConfig(InvalidInput):
    """A configuration file or a command's option is wrong."""

    code = "invalid_config"


class InvalidLearnware(InvalidInput):
    """A learnware's folder cannot be used: its adapter, its card or a specification is wrong."""

    code = "invalid_learnware"


class DuplicateLearnware(InvalidLearnware):
    """Two learnwares have one id, or the market already serves one with this id."""

    status = 409
    code = "duplicate_learnware"


class CanaryRuns(InvalidLearnware):
    """A learnware has a canary, which is to be promoted or rolled back first."""

    status = 409
    code = "canary_runs"


class CheckDied(InvalidLearnware):
    """The process that checked a learnware crashed, or needed more memory or time than a check may."""


class InvalidSpecification(InvalidInput):
    """A specification has wrong shapes, values, type or encoder."""

    code = "invalid_specification"


class TooLarge(InvalidInput):
    """A request's body is larger than the configuration allows."""

    status = 413
    code = "body_too_large"


class TooSlow(InvalidInput):
    """A request's body did not arrive within the time that the configuration allows."""

    status = 408
    type = "timeout_error"
    code = "body_timeout"


class Unauthorized(LearnwareError):
    """The key that a request needs is missing, or it is another one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(LearnwareError):
    """No key of this stack allows the request."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class UnknownModel(LearnwareError):
    """The request names a model, learnware or task that is not served."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownLearnware(UnknownModel):
    """The market has no learnware with this id."""

    code = "learnware_not_found"


class UnknownCanary(UnknownLearnware):
    """The learnware has no canary, or not of the version that is meant."""

    code = "canary_not_found"


class UnknownDecision(LearnwareError):
    """No decision is kept of this request, or it is another tenant's."""

    status = 404
    type = "invalid_request_error"
    code = "decision_not_found"


class NotReplayable(LearnwareError):
    """Too little is kept of a decision to make it again."""

    status = 409
    type = "invalid_request_error"
    code = "not_replayable"


class DecisionsUnavailable(LearnwareError):
    """The file of the log of decisions cannot be read or written now."""

    status = 503
    type = "service_unavailable"
    code = "decisions_unavailable"
    retry_after_s = 10
    """Seconds after which a client should try again."""


class UnknownPath(LearnwareError):
    """There is nothing at the path."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class WrongMethod(UnknownPath):
    """The path does not take the method."""

    status = 405
    code = "method_not_allowed"


class TaskQuotaReached(LearnwareError):
    """As many task specifications are kept for a key as may be. The status is none that clients retry by themselves:
    waiting alone does not help."""

    status = 403
    type = "invalid_request_error"
    code = "task_quota_reached"


class MarketBusy(LearnwareError):
    """Another process is changing the market."""

    status = 503
    type = "service_unavailable"
    code = "market_busy"
    retry_after_s = 2
    """Seconds after which a client should try again: most changes take a fraction of a second."""


class MarketFull(LearnwareError):
    """As many uploads as the market takes at a time are under way."""

    status = 429
    type = "rate_limit_error"
    code = "market_full"
    retry_after_s = 30
    """Seconds after which a client should try again: a trial on an engine takes from some seconds to two minutes."""


class MarketUnwritable(LearnwareError):
    """The disk that the market lies on is full, or cannot be written; nothing was changed."""

    status = 503
    type = "service_unavailable"
    code = "market_unwritable"
    retry_after_s = 30
    """Seconds after which a client should try again."""


class StoreFull(LearnwareError):
    """The store of task specifications is full."""

    status = 507
    type = "invalid_request_error"
    code = "store_full"


class StartupError(LearnwareError):
    """The stack cannot start on this machine: a port is taken, or the base model or a package is missing."""

    status = 503
    type = "service_unavailable"
    code = "startup_failed"


class Overloaded(LearnwareError):
    """The router has more requests than it can decide on in time. `retry_after_s` tells the client when to come
    back."""

    status = 429
    type = "rate_limit_error"
    code = "router_overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(LearnwareError):
    """The caller has used up its limit, or so many requests wait that this one is not taken. `retry_after_s` is an
    estimate of when it would be."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineUnavailable(LearnwareError):
    """The engine of this replica cannot serve now."""

    status = 503
    type = "service_unavailable"
    code = "engine_unavailable"
    retry_after_s = 5
    """Seconds after which a client should retry: a replica whose engine ended is replaced within a minute, and others
    take its share before."""


class RouterUnavailable(LearnwareError):
    """No router replica is alive that could choose."""

    status = 503
    type = "service_unavailable"
    code = "router_unavailable"
    retry_after_s = 2
    """Seconds after which a client should retry: Ray checks its replicas each second, and a new router needs some
    seconds to start."""


class NotReady(LearnwareError):
    """The stack is still starting."""

    status = 503
    type = "service_unavailable"
    code = "not_ready"


class EngineGone(LearnwareError):
    """The engine that had the request died or hung. A request of which nothing was answered yet is tried once more, on
    another replica, by the edge."""

    status = 502
    type = "service_unavailable"
    code = "engine_gone"
    retry_after_s = 2
    """Seconds after which a client should retry: by then the edge asks the replica no more."""


class AnswerTimeout(LearnwareError):
    """The engine took longer for a token than the configuration allows."""

    status = 504
    type = "timeout_error"
    code = "answer_timeout"


class AdapterUnavailable(LearnwareError):
    """The adapter of a learnware could not be loaded."""

    status = 503
    type = "service_unavailable"
    code = "adapter_unavailable"
