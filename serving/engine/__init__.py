"""The vLLM engine's side: the worker replaces vLLM's adapter managers and, on CPU, its LoRA operators by this
project's.

    worker          the worker classes (`worker_cls`), the only module here that vLLM imports by name
    worker_manager  a worker's adapters: reading, checking, placing them in slots, reporting
    adapters        the adapters in the model's layers, and the checks of a freshly read one
    slot_writer     writes an adapter into its slot, only what differs
    staging         copies adapters to a CUDA device ahead of the step that needs them
    punica          vLLM's interface of LoRA operators, over `operators`
    operators       LoRA products on CPU for a batch of several adapters
    kernels         compiled products of a few rows, used by `operators`
    memory          keeps a worker's memory from growing

Importing this package imports neither vLLM nor torch.
"""
