"""Encoders from text to unit vectors.

The static encoder takes well under a millisecond on one CPU thread. Its vector has three blocks, because a request
shows its task in three ways:

    semantic  256  mean of the static token vectors of WordLlama (`wordllama` 0.4.0.post1, MIT), each distinct
                   token once
    n-grams   256  signed feature hashing of token unigrams and bigrams (Weinberger et al. 2009, "Feature Hashing
                   for Large Scale Multitask Learning"): wording that a mean of meanings blurs
    shape      24  length, digits, capitals, options, cashtags, scripts: what a table row or an exam question looks like

A static table is two orders of magnitude faster than a transformer. The package's data files are read directly:
importing `wordllama` would configure the process's root logger, and its `load` looks for a network.

A prompt's vector joins two parts (`specs.encoding.ask`): its material under the static encoder above, 536 numbers, and
its ask under the transformer of `specs.encoding.ask_encoder`, 384 numbers. Since squared distances add up,
a Gaussian kernel on joined vectors is the product of one kernel on materials and one on asks, and a joint mean
embedding is still a reduced set of points.
"""

import hashlib
import importlib.util
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from specs.encoding.ask import Prompt, split_prompt
from specs.encoding.ask_encoder import ASK_DIM, ASK_ENCODER, AskEncoder, load_ask_encoder
from specs.errors import InvalidSpecification, StartupError

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]

STATIC_ENCODER = "wordllama-l2-256+surface-v1@0.4.0.post1"
"""Id of the static encoder, as specifications name it: the table, the surface features' version, the package's
version."""

PROMPT_ENCODER = f"ask+material-v2:{ASK_ENCODER}+{STATIC_ENCODER}"
"""Id of the encoder of whole prompts: how they are divided, and the encoders of the two parts."""

SEMANTIC_DIM = 256
"""Length of the semantic block."""
NGRAM_DIM = 256
"""Length of the block of hashed n-grams."""
NGRAM_WEIGHT = 0.7
"""Weight of the hashed block against the semantic one (1.0). With 0.3 to 0.7 all figures move by less than a point;
more wording makes prompts without their instruction a little better and paraphrases a little worse."""
SHAPE_WEIGHT = 0.2
"""Weight of the shape block against the semantic one (1.0)."""

HEAD_CHARS = 1200
"""Characters that are read from the beginning of a long text. The instruction stands at one of the ends in practice,
2,000 characters hold nearly every prompt of the tasks measured, and the bound keeps a 1 MB prompt as cheap as a
page."""
TAIL_CHARS = 800
"""Characters that are read from the end of a long text."""

_OPTION_LINE = re.compile(r"^[A-E][.)]", re.MULTILINE)
_DIGITS = slice(48, 58)
_CAPITALS = slice(65, 91)
_ASCII_CODES = 128


class Encoder(Protocol):
    """Maps texts to unit vectors. Implementations are thread-safe and never raise on odd text."""

    @property
    def id(self) -> str:
        """Id that specifications name the encoder by."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of everything that determines the vectors."""

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Returns the texts' vectors: (n, dim) float32, rows of unit norm."""


class StaticEncoder:
    """The encoder of semantic, n-gram and shape blocks that this module's docstring describes."""

    id = STATIC_ENCODER

    def __init__(self, weights: Path, tokenizer: Path) -> None:
        self._table = load_file(weights)["embedding.weight"].astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        digest = hashlib.sha256(self.id.encode())
        for file in (weights, tokenizer):
            digest.update(file.read_bytes())
        self.fingerprint = digest.hexdigest()
        self.dim = SEMANTIC_DIM + NGRAM_DIM + len(_shape(""))

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Returns the texts' vectors: (n, dim) float32, rows of unit norm."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._encode(text)
        return vectors

    def _encode(self, text: str) -> Vector:
        text = _readable(text)
        ids = np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
        vector = np.concatenate(
            [self._semantic(ids), NGRAM_WEIGHT * _ngrams(ids), SHAPE_WEIGHT * _shape(text)], dtype=np.float32
        )
        return vector / np.linalg.norm(vector)

    def _semantic(self, ids: NDArray[np.int64]) -> Vector:
        """Returns the mean vector of the distinct tokens: with repeats a long text's common words would drown the few
        that tell its topic."""
        if not len(ids):
            return np.zeros(SEMANTIC_DIM, np.float32)
        mean: Vector = self._table[np.unique(ids)].mean(0)
        return _unit(mean)


class PromptEncoder:
    """Encodes prompts as (material, ask): two unit vectors side by side, divided by √2 so that the whole has unit
    norm."""

    id = PROMPT_ENCODER

    def __init__(self, material: Encoder, ask: AskEncoder) -> None:
        self._material = material
        self._ask = ask
        self.fingerprint = hashlib.sha256(f"{self.id} {material.fingerprint} {ask.fingerprint}".encode()).hexdigest()
        self.dim = material.dim + ASK_DIM

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Returns the prompts' vectors: (n, dim) float32, rows of unit norm."""
        prompts = [split_prompt(text) for text in texts]
        materials = self._material.encode([self._readable(prompt) for prompt in prompts])
        return self.join(materials, self.encode_asks([prompt.ask for prompt in prompts]))

    def _readable(self, prompt: Prompt) -> str:
        """Returns the material, with its slips mended where it is the ask itself, a few words each of which counts."""
        return self._ask.spelling.mended(prompt.material) if prompt.is_all_ask else prompt.material

    def encode_asks(self, asks: Sequence[Sequence[str]]) -> Matrix:
        """Returns the vectors of asks, each given as its sentences: (n, `ASK_DIM`), of unit norm."""
        vectors = np.empty((len(asks), ASK_DIM), np.float32)
        for row, sentences in enumerate(asks):
            vectors[row] = self._ask.encode(sentences)
        return vectors

    def join(self, materials: Matrix, asks: Matrix) -> Matrix:
        """Returns the vectors (n, dim) of prompts that put these asks (n, `ASK_DIM`) to these materials (n, dim -
        `ASK_DIM`)."""
        return np.concatenate([materials, asks], axis=1, dtype=np.float32) * _HALF

    def parts(self, vectors: Matrix) -> tuple[Matrix, Matrix]:
        """Returns the materials and the asks that `join` made these vectors (n, dim) from."""
        return vectors[:, :-ASK_DIM] / _HALF, vectors[:, -ASK_DIM:] / _HALF


_HALF = np.float32(2**-0.5)
"""Factor of a prompt's two parts, each of which has half of its squared norm."""


@lru_cache(maxsize=4)
def load_encoder(encoder_id: str) -> Encoder:
    """Returns the encoder of that id, loaded once per process (the static table in about 0.2 s, the transformer in 0.5
    s).

    Raises:
        InvalidSpecification: no encoder has this id here.
        StartupError: a package with its data is not installed.
    """
    if encoder_id == PROMPT_ENCODER:
        return load_prompt_encoder()
    if encoder_id != STATIC_ENCODER:
        raise InvalidSpecification(f"no encoder {encoder_id!r} here; this version knows {PROMPT_ENCODER!r}")
    package = importlib.util.find_spec("wordllama")
    if package is None or not package.submodule_search_locations:
        raise StartupError("the encoder's package is missing: pip install wordllama==0.4.0.post1")
    folder = Path(package.submodule_search_locations[0])
    return StaticEncoder(
        folder / "weights" / "l2_supercat_256.safetensors",
        folder / "tokenizers" / "l2_supercat_tokenizer_config.json",
    )


@lru_cache(maxsize=1)
def load_prompt_encoder() -> PromptEncoder:
    """Returns the encoder of prompts, the same object as `load_encoder` gives. Raises StartupError, as that does."""
    return PromptEncoder(load_encoder(STATIC_ENCODER), load_ask_encoder())


def _readable(text: str) -> str:
    """Returns head and tail of a long text, without the lone surrogates that a tokenizer refuses."""
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        text = f"{text[:HEAD_CHARS]} {text[-TAIL_CHARS:]}"
    return text.encode("utf-8", "replace").decode()


def _ngrams(ids: NDArray[np.int64]) -> Vector:
    """Returns square-rooted counts of token unigrams and bigrams, hashed to signed buckets: (NGRAM_DIM,), unit norm."""
    if not len(ids):
        return np.zeros(NGRAM_DIM, np.float32)
    bigrams = (ids[:-1] * 1_000_003 + ids[1:] * 7_919 + 12_345) & 0x7FFF_FFFF
    # Knuth's multiplicative constant spreads consecutive ids over the buckets.
    hashes, counts = np.unique(np.concatenate([ids, bigrams]) * 2_654_435_761 & 0x7FFF_FFFF, return_counts=True)
    signed = np.where((hashes >> 5) & 1, 1.0, -1.0) * np.sqrt(counts)
    return _unit(np.bincount((hashes >> 8) % NGRAM_DIM, weights=signed, minlength=NGRAM_DIM).astype(np.float32))


def _shape(text: str) -> Vector:
    """Returns numbers on how the text looks, each scaled to about [0, 1]: (24,)."""
    length = max(len(text), 1)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    counts = np.bincount(np.minimum(codes, _ASCII_CODES), minlength=_ASCII_CODES + 1)
    words = len(text.split())
    letters = len(text) - int(counts[32]) - int(counts[10])

    def share(character: str, scale: float) -> float:
        return float(counts[ord(character)]) / length * scale

    return np.array(
        [
            math.log1p(length) / 8,
            math.log1p(counts[10] + 1) / 3,
            math.log1p(words) / 6,
            counts[_DIGITS].sum() / length * 4,
            counts[_CAPITALS].sum() / length * 4,
            counts[_ASCII_CODES] / length * 2,
            sum(share(mark, 5) for mark in ".,;:"),
            share("$", 20),
            share("?", 50),
            share("%", 50),
            0.5 * ("http" in text),
            0.3 * ("@" in text),
            share("=", 20),
            share("\\", 20),
            len(_OPTION_LINE.findall(text)) / 5,
            share(";", 30),
            share("#", 30),
            share("'", 30),
            share("(", 20),
            share("-", 20),
            text.count(" .") / length * 20,
            share('"', 20),
            letters / max(words, 1) / 8 if words else 0.0,
            0.5 * text.rstrip().endswith("?"),
        ],
        np.float32,
    )


def _unit(vector: Vector) -> Vector:
    norm = float(np.linalg.norm(vector))
    return vector / np.float32(norm) if norm > 0 else vector
