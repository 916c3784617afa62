"""The tenant's part in what is given to the engine with a request: its place in the order, and its prefix cache.

The engine's processes know nothing of keys. So a request's tenant travels in its sampling parameters
(`serving.paging.settings.Share`), and the tenant's name in the prompt's `cache_salt`, by which vLLM keeps prefixes of
different salts apart: nobody can tell from the time to a first token what others have asked.
"""

import copy
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from vllm.engine.protocol import StreamingInput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest

from serving.access.caller import caller
from serving.access.tenant import ANONYMOUS, Tenant
from serving.paging.idle import is_idle_work
from serving.paging.settings import EXTRA_ARGS, Share

PRIORITY_HEAD_START = 2048.0
"""Tokens of head start for each step of priority: some answers of a chat. A request of priority -1 passes that much of
what other tenants have waiting, and no more."""
LOWEST_PRIORITY = 1 << 20
"""Largest value of a priority; larger ones count as this one. It puts a request behind whatever waits."""

IDLE = Share(idle=True)
"""The share of idle work."""

SALT_SEPARATOR = ":"
"""Stands between a tenant's name, which has none, and the client's own salt."""


def with_caller(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of vLLM's `AsyncLLM.generate` or `encode` as the tenant of the running request
    (`serving.access.caller.caller`) may give them. The ones that came in are not changed.

    - The sampling parameters carry the tenant's `Share`, in place of anything a client put there. Parameters of pooling
      models have no place for it: their requests belong to no tenant.
    - `priority` is vLLM's default, since the order is this project's; what was asked for is a head start, as far as the
      tenant's key grants it.
    - The prompt carries the tenant's name as `cache_salt` where there are keys; a client's own salt is kept beside it.
    - Idle work (`serving.paging.idle`) has the share `IDLE` instead, behind all that anybody can ask for.
    """
    tenant = caller.get()
    arguments = dict(kwargs)
    priority = arguments.pop("priority", 0)
    share = IDLE if is_idle_work() else Share(tenant.name, tenant.weight, head_start(tenant, priority))
    positional = list(args)
    if len(positional) > 1:
        positional[1] = _with_share(positional[1], share)
    elif "sampling_params" in arguments:
        arguments["sampling_params"] = _with_share(arguments["sampling_params"], share)
    if tenant.name != ANONYMOUS.name:
        if positional:
            positional[0] = _salted(positional[0], tenant.name, share)
        elif "prompt" in arguments:
            arguments["prompt"] = _salted(arguments["prompt"], tenant.name, share)
    return tuple(positional), arguments


def head_start(tenant: Tenant, priority: int) -> float:
    """Returns the tokens by which a request comes earlier that asks for a priority (smaller is better): as far as the
    tenant's key grants it, and later by a negative number of tokens when it asks for a worse one."""
    best = min(0, tenant.priority)
    return -PRIORITY_HEAD_START * min(max(int(priority or 0), best), LOWEST_PRIORITY)


def _with_share(parameters: Any, share: Share) -> Any:
    if not isinstance(parameters, SamplingParams):
        return parameters
    parameters = copy.copy(parameters)  # callers may use one object for several requests
    parameters.extra_args = {**(parameters.extra_args or {}), EXTRA_ARGS: share._asdict()}
    return parameters


def _salted(prompt: Any, tenant: str, share: Share) -> Any:
    """Returns a prompt, in any of the forms that vLLM takes, with the tenant's name in its salt."""
    if isinstance(prompt, str):
        prompt = {"prompt": prompt}
    elif isinstance(prompt, list):
        prompt = {"prompt_token_ids": prompt}
    elif isinstance(prompt, EngineCoreRequest):
        request = copy.copy(prompt)
        request.cache_salt = _salt(tenant, prompt.cache_salt)
        return request
    elif isinstance(prompt, AsyncGenerator):
        return _salted_inputs(prompt, tenant, share)
    salted = {**prompt, "cache_salt": _salt(tenant, prompt.get("cache_salt"))}
    if prompt.get("type") == "enc_dec":  # vLLM reads the decoder's salt there, and has put the client's into it
        decoder = prompt["decoder_prompt"]
        salted["decoder_prompt"] = {**decoder, "cache_salt": _salt(tenant, decoder.get("cache_salt"))}
    elif "encoder_prompt" in prompt:
        salted["encoder_prompt"] = _salted(prompt["encoder_prompt"], tenant, share)
    return salted


async def _salted_inputs(
    inputs: AsyncGenerator[StreamingInput], tenant: str, share: Share
) -> AsyncGenerator[Any, None]:
    async for one in inputs:
        parameters = _with_share(one.sampling_params, share)
        yield replace(one, prompt=_salted(one.prompt, tenant, share), sampling_params=parameters)


def _salt(tenant: str, own: str | None) -> str:
    return f"{tenant}{SALT_SEPARATOR}{own}" if own else tenant
