"""The front end of an engine replica: what a request passes between HAProxy and vLLM, and which adapters are
registered.

    server            the Ray Serve deployment: vLLM's application with this package's parts around it
    limits            bounds what enters, before adapters are touched: bodies, places, tokens, models
    places            the sequences that run and wait, and who is refused when there are too many
    token_budgets     the tokens a minute of each tenant
    asked             how much a body asks for
    request_body      reads and rewrites the body of a request
    request_shape     how large and how deep its JSON may be
    request_edits     what is taken out of it
    room              shortens an answer to the room that its prompt leaves
    middleware        sets a request's `model` from the router's choice and names the answering model in headers
    answering         no answer before the first token, errors in the form of the API, hang-ups
    error_events      errors as a response and as the last event of a stream
    watchdog          notices an engine that hangs or is gone, and kills it
    vllm_metrics      keeps vLLM's own metrics bounded
    admission         the names that are served now, and the requests that run under each version
    adapter_registry  registers and unregisters adapters with vLLM as the market's catalogue changes
    model_list        the models that clients may name
    prompt_logprobs   refuses log-probabilities of the prompt while they would break the engine
    trial             tries an adapter on the engine before it is served
    off_task_meter    measures on the engine how a learnware changes answers to requests off its task
    request_metrics   counters of requests by answering model and reason
    paging_metrics    gauges and counters of adapter paging
"""
