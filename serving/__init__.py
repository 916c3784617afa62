"""The serving side of the project: the engine behind the OpenAI endpoint, what starts and stops it, and the command
line.

    cli            the console command `learnware-serving`, one module for each command
    launch         the process that starts the stack on this machine and takes it down
    replica        the front end of an engine replica, before vLLM's application
    paging         which adapters lie in device slots and in host memory, and which request runs next
    engine         what runs inside vLLM's workers: adapter managers and, on CPU, LoRA operators
    applications   the small Ray Serve applications beside the endpoint: market, task specifications, metrics
    training       training and measuring adapters, without an engine
    sources        where adapters come from: folders, zips, the hub, object stores, URLs
    app, serve_builders, requirements, config, base_model, names, paths, processor, openai_errors, ray_internals,
    terminal       what several of these share

Terms used throughout:

- edge: HAProxy, the reverse proxy in front of all replicas, and the rules that this project adds to its configuration
  (`serving.edge`).
- engine name: the string `<learnware id>@<hash>` under which vLLM knows one version of a learnware
  (`specs.engine_name`).
- registered: an adapter that vLLM's front end knows under its engine name, wherever its weights are
  (`serving.replica.adapter_registry`).
- slot: the preallocated memory on the device for one adapter of the largest rank; vLLM calls their number `max_loras`.
- resident: an adapter that holds a slot.
- tier: the fastest place that holds an adapter: device (resident), host memory, or disk.
- host tier: the byte-limited cache of adapters in a worker's host memory (`serving.paging.tier`).
- lease: a claim on an adapter that keeps it in the host tier until it is released.
- admission gate: the wrapper around vLLM's `AsyncLLM` that gives a request to the engine only once its adapter is
  leased; to hold an adapter is to keep such a lease over several calls (`serving.paging.gate`).
- active, pinned, draining: an adapter is active while a request of it runs, pinned when it keeps its slot, and draining
  when it gets no new requests so that its slot becomes free (`serving.paging.queue`).
- parked request: one that vLLM cannot run yet, because its grammar still compiles or its keys and values are on the way
  (`serving.paging.scheduler`).
- idle polling: checking shared memory in short sleeps (naps) instead of a busy loop (`serving.paging.idle_polling`).
- off task: about requests that are not the task of the learnware that answers them (`specs.off_task`).
"""
