"""Adapter paging: which requests run next, and which adapters lie in the slots and in host memory.

    queue      the waiting requests: which one runs next
    slots      which adapters hold the device's slots
    scheduler  vLLM's schedulers with that queue

The policies (`queue`, `slots`) import neither vLLM nor torch, so tests and simulations run the very classes that serve.
"""
