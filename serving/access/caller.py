"""The tenant of the request that the running task serves.

The front door of a replica (`serving.replica.front_door`) sets it; tasks that the request starts inherit it.
"""

from contextvars import ContextVar

from serving.access.tenant import ANONYMOUS, Tenant

caller: ContextVar[Tenant] = ContextVar("caller", default=ANONYMOUS)
"""The tenant of the running request; `ANONYMOUS` outside of one."""
