"""Traces by OpenTelemetry, ids of requests, and log lines that carry both. Off, none of it is in a request's way.

context  ids and trace context of the running request, from its headers
logs     log lines as JSON objects
spans    the OpenTelemetry SDK: providers, exporter, and the edge's span
replica  the ASGI middleware of an engine replica, and what the middlewares and the gate inside tell it
router   the same of a router

One trace of a generating request, each span with the service that records it:

    POST /v1/chat/completions      learnware-edge, recorded by the replica (by the router where that refuses)
    ├── learnware.decide           learnware-router
    └── chat auto                  learnware-engine; GenAI attributes, `gen_ai.response.model` is the learnware
        ├── learnware.adapter      the wait until the adapter is in host memory
        ├── learnware.queue        the wait in the engine, for a slot and a place in the batch
        ├── learnware.prefill
        ├── learnware.decode
        └── llm_request            vLLM's own
"""
