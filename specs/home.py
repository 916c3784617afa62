"""The base model's home: the prompts of `specs.prompts` as reduced sets, so that no start has to embed thousands of
them.

    everyday              chat, writing, code, general knowledge
    <domain> questions    free questions of a domain, and asks about its material that no shipped learnware answers
    other asks            vectors of asks alone, which can be joined to any material (`other_asks_on`)
    instruction           coefficients of the regression that tells system prompts which instruct the model
                          (`specs.encoding.system_prompt`)

`python -m specs.home` makes `specs/prompts/home.safetensors` anew, after the prompts or the encoder have changed. The
file names the encoder and the prompts that it was made from, and a test checks that these are the present ones.
"""

import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specs import safetensors_file as single_file
from specs.encoding.ask import split_prompt
from specs.encoding.encoder import PromptEncoder, load_prompt_encoder
from specs.encoding.system_prompt import fit_instruction
from specs.errors import StartupError
from specs.prompts import domain_questions, everyday_prompts, other_asks, system_prompts
from specs.rkme import ReducedSet, local_gamma, reduce_points

Matrix = NDArray[np.float32]
Vector = NDArray[np.float32]

EVERYDAY = "everyday"
"""Name of the home's reduced set of everyday prompts."""
QUESTIONS = " questions"
"""Ending of the name of a domain's reduced set of questions, after the domain's name."""
OTHER_ASKS = "other asks"
"""Name of the home's part for other asks, which the router composes with the learnwares' material."""
FILE = "home.safetensors"
"""File name of the shipped home in `specs/prompts`."""

EVERYDAY_POINTS = 360
"""Points of the reduced set of everyday prompts. With all prompts the choice is no better, and the router's fit takes
twice as long."""
QUESTION_POINTS = 130
"""Points of each domain's reduced set of questions. With all prompts the choice is no better, and the router's fit
takes twice as long."""
LEFT_OF_OWN_ASK = 0.5
"""Weight of a learnware's own ask beside another one in a composed vector. With 0 more than twice as many requests with
another ask went to learnwares that label; with 0.8 more rewordings of their own asks were missed."""


@dataclass(frozen=True)
class Home:
    """Reduced sets by name, the vectors of other asks (n, `ASK_DIM`), and the coefficients (`ASK_DIM` + 1,) that tell
    system prompts which instruct the model (`specs.encoding.system_prompt`)."""

    sets: Mapping[str, ReducedSet]
    asks: Matrix
    instruction: Vector


def make_home(
    encoder: PromptEncoder,
    everyday: Sequence[str],
    questions: Mapping[str, Sequence[str]],
    asks: Sequence[str],
    instructions: Sequence[str],
    neutral: Sequence[str],
) -> Home:
    """Makes the home of these prompts, in some 20 s for the project's own."""
    sets = {EVERYDAY: _reduced(encoder.encode(everyday), EVERYDAY_POINTS)}
    for domain, prompts in questions.items():
        sets[domain + QUESTIONS] = _reduced(encoder.encode(prompts), QUESTION_POINTS)
    asked = encoder.encode_asks([split_prompt(ask).ask for ask in asks])
    return Home(sets, asked, fit_instruction(instructions, neutral, encoder))


def _reduced(vectors: Matrix, points: int) -> ReducedSet:
    return reduce_points(vectors, min(points, len(vectors)), local_gamma(vectors))


@lru_cache(maxsize=1)
def load_home() -> Home:
    """Returns the shipped home, which is read once per process.

    Raises:
        StartupError: it was made with another encoder.
    """
    content = importlib.resources.files("specs.prompts").joinpath(FILE).read_bytes()
    tensors, description = single_file.parse(content)
    encoder = load_prompt_encoder()
    if description["encoder"] != encoder.fingerprint:
        raise StartupError(f"{FILE} was made with another encoder: make it anew with `python -m specs.home`")
    sets = {}
    for name in description["sets"]:
        weights = tensors[f"{name}.weights"].astype(np.float64)
        sets[name] = ReducedSet(tensors[f"{name}.points"].astype(np.float32), weights / weights.sum())
    return Home(sets, tensors["asks"].astype(np.float32), tensors["instruction"])


def prompts_hash() -> str:
    """SHA-256 (hexadecimal) of the project's own prompts, which names what a home was made from."""
    digest = hashlib.sha256()
    systems = (*system_prompts("instruction"), *system_prompts("neutral"))
    for prompt in (*everyday_prompts(), *sum(domain_questions().values(), ()), *other_asks(), *systems):
        digest.update(prompt.encode() + b"\0")
    return digest.hexdigest()


def write_home(path: Path) -> None:
    """Makes the home of the project's own prompts and writes it to `path`."""
    encoder = load_prompt_encoder()
    home = make_home(
        encoder,
        everyday_prompts(),
        domain_questions(),
        other_asks(),
        system_prompts("instruction"),
        system_prompts("neutral"),
    )
    tensors: dict[str, NDArray[np.float16] | NDArray[np.float32]] = {
        "asks": home.asks.astype(np.float16),
        "instruction": home.instruction,
    }
    for name, reduced in home.sets.items():
        tensors[f"{name}.points"] = reduced.points.astype(np.float16)
        tensors[f"{name}.weights"] = reduced.weights.astype(np.float32)
    description = {"encoder": encoder.fingerprint, "prompts": prompts_hash(), "sets": list(home.sets)}
    path.write_bytes(single_file.dump(tensors, description))


def other_asks_on(materials: Matrix, own_asks: Matrix, asks: Matrix, count: int) -> Matrix:
    """Returns `count` vectors (count, dim) of other asks composed with a learnware's material.

    Every second pass through `asks` also keeps `LEFT_OF_OWN_ASK` of the learnware's own ask: a prompt may still hold
    its own question beside the other ask. The pairing is fixed, so the same input gives the same output.

    Args:
        materials: material parts of the learnware's points (n, dim - `ASK_DIM`).
        own_asks: ask parts of the same points (n, `ASK_DIM`).
        asks: vectors of the other asks (m, `ASK_DIM`).
        count: number of vectors to compose.
    """
    encoder = load_prompt_encoder()
    generator = np.random.default_rng(0)
    rows = generator.permutation(max(count, len(materials)))[:count] % len(materials)
    chosen = asks[np.arange(count) % len(asks)]
    left = np.where(np.arange(count) // len(asks) % 2 == 1, LEFT_OF_OWN_ASK, 0.0).astype(np.float32)[:, None]
    mixed = chosen + left * own_asks[rows]
    mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9)
    return encoder.join(materials[rows], mixed)


if __name__ == "__main__":
    write_home(Path(__file__).parent / "prompts" / FILE)
