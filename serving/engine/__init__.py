"""The vLLM engine as we run it: our worker puts our adapter managers and, on CPU, our LoRA operators in the place of
vLLM's.

    worker     what vLLM is started with (`worker_cls`); the only module that vLLM imports by name
    adapters   the managers: which adapters are loaded, checked and resident
    punica     vLLM's interface of LoRA operators, over ours
    operators  the CPU arithmetic itself, plain torch

Importing this package imports neither vLLM nor torch.
"""
