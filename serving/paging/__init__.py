"""Adapter paging: which requests run next, and which adapters are in device slots and in host memory.

    settings        the settings, and how they reach the engine's processes
    queue           the waiting requests of an engine by tenant and adapter: which one runs next
    fair_share      what each tenant has received, in tokens
    kept_seats      seats that are kept free for tenants below their share
    lanes           the tables of the waiting requests
    answer_lengths  what a request is likely to cost in tokens
    slots           which adapters hold the device's slots
    scheduler       vLLM's schedulers over that queue
    idle_polling    how the engine's core process waits for its CPU workers
    host            a cache of adapters within a budget in bytes
    tier            the host tier: that cache with a loader's thread and leases
    buffer          an adapter's tensors in one piece of memory
    sockets         messages between the front end and the engine's processes
    gate            the admission gate: requests enter the engine when their adapter is in host memory
    idle            marks what a replica gives the engine of its own accord, which gives way to all requests
    caller_params   what the tenant of a request changes of what is given to the engine
    inflight        what is in the engine on behalf of which HTTP request, and how it is ended from outside
    orphan          ends an engine's processes when their front end is gone
    residency       which tier holds each adapter, from the reports of workers and scheduler

The policies (`queue` with `fair_share`, `kept_seats` and `lanes`, `slots`, `host`) import neither vLLM nor torch, so
tests and simulations run the very classes that serve.
"""
