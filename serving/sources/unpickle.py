"""Reads a pickle of tensors and writes them as safetensors: `python -I unpickle.py SOURCE TARGET BYTES`.

Run by `serving.sources.pickled` in a process of its own, and imports nothing of this project. It ends with status 1 and
one sentence on stderr if the pickle holds anything but named tensors of `BYTES` bytes together.
"""

import re
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any

CPU_S = 240
"""Seconds of processor time."""
LIBRARIES_BYTES = 8 << 30
"""Address space in bytes that PyTorch itself may take; little of it is memory."""


def limit_self(size: int) -> None:
    """Bounds this process for tensors of `size` bytes: address space for the file and two copies of them, processor
    time, the size of files, no core dump."""
    bounds = {
        resource.RLIMIT_AS: LIBRARIES_BYTES + 3 * size,
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_FSIZE: size + (64 << 20),
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in bounds.items():
        _, most = resource.getrlimit(kind)
        allowed = bound if most == resource.RLIM_INFINITY else min(bound, most)
        resource.setrlimit(kind, (allowed, allowed))


def read(path: Path) -> dict[str, Any]:
    """Returns the tensors of a pickle by name. Raises ValueError with a sentence if it holds anything else."""
    import pickle

    import torch

    try:
        # the older of PyTorch's two formats cannot be mapped into memory
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = f"it holds other things than tensors, which could run code: it asks for {named[1]}"
        else:
            reason = "it is no whole pickle of tensors alone"
        raise ValueError(reason) from None
    if not isinstance(content, dict) or not content:
        raise ValueError("it holds no tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"it holds other things than tensors by name, such as {str(name)[:80]!r}")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ValueError(f"{name[:80]!r} is a sparse, quantised or empty (meta) tensor")
    return content


def write(tensors: dict[str, Any], path: Path, size: int) -> None:
    """Writes tensors of at most `size` bytes, each with memory of its own. Raises ValueError if they are larger."""
    from safetensors.torch import save_file

    # before anything is copied: a tensor that repeats one value is small until then
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    if total > size:
        raise ValueError(f"its tensors hold more than {size / (1 << 20):g} MiB")
    whole: dict[str, Any] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        own = value.detach().contiguous()
        place = own.untyped_storage().data_ptr()
        whole[name] = own.clone() if place in seen or own.untyped_storage().nbytes() != own.nbytes else own
        seen.add(place)
    save_file(whole, path, metadata={"format": "pt"})


def main(source: str, target: str, size: str) -> int:
    """Converts the file `source`; returns the status to end with."""
    limit_self(int(size))
    try:
        write(read(Path(source)), Path(target), int(size))
    except MemoryError:
        print("it takes more memory than its tensors may", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 (whatever a hostile file makes the reader raise)
        lines = str(error).strip().splitlines()
        print(lines[0] if lines else type(error).__name__, file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
