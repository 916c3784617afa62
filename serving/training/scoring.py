"""Scores rows by log-likelihood: which of the given answers a model finds likeliest, row by row, kept on disk.

Protocol (`PROTOCOL` names it in every result). A row's prompt is one user turn through the base's chat template, up to
where the assistant speaks, exactly as it is served. For each answer to choose among (the labels; for multiple choice
the letters) the log-probabilities of all its tokens are summed; the end-of-turn token is left out, because an adapter
was trained to give it and the base was not, which would flatter the adapter. The likeliest answer counts. The whole
answer is used, not its first token: labels share first tokens ("college biology", "college medicine"). Nothing is
normalised by length: the labels stand in the prompt, so the model is asked for exactly these strings. `greedy` says
whether greedy decoding would begin with the gold answer. Prompts longer than `MAX_LENGTH` tokens lose their middle.

A row without answers to choose among (a number to compute) has its gold answer alone, with the end-of-turn token: it is
right when greedy decoding gives exactly that.

Where a task is answered in sentences (`specs.answers`), the gold answer alone is scored too, but without the
end-of-turn token, and the mean a token counts (`TEXT_PROTOCOL`): long answers would else outweigh all others. Nothing
is right or wrong there; what greedy decoding says is kept beside the scores (`Scorer.say`) for
`serving.training.free_text` to compare.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from serving.training.adapter import computing_type, load_base
from serving.training.generation import ROWS_A_BATCH, greedy_answers
from serving.training.rows import EncodedRow, Row, common_prefix, encode_answer, encode_prompt, rows_hash, rows_kind
from serving.training.shared_base import SharedBase, check_measurable
from serving.training.split_model import Stack
from specs.adapter import adapter_hash
from specs.answers.description import AnswerKind

PROTOCOL = (
    "sum of log p(answer token | chat-templated prompt) over the whole answer without end of turn, argmax; "
    "without choices: log p of the answer and end of turn, right if each token is the likeliest; v2"
)
"""Name of the way of scoring, kept with each result (see the module)."""
TEXT_PROTOCOL = (
    "sentences: mean log p(gold answer token | chat-templated prompt) without end of turn; "
    "ROUGE-L F of greedy decoding; v1"
)
"""Name of the way of scoring answers in sentences, kept with each result (see the module)."""
CELLS = "v3"
"""Part of the names of the files of finished rows. Those of earlier versions are passed over: where an adapter of the
run had rewritten the base model's weights (`serving.training.shared_base`), the others' rows were scored on these."""
MAX_LENGTH = 2048
"""Largest length of a prompt in tokens."""
BASE = "base"
"""Name of the base model without an adapter among the systems that are scored."""
ROWS_A_PASS = 16
"""Largest number of rows in a pass."""
PASS_TOKENS = 24
"""Cost of a pass besides its tokens, in tokens: measured with SmolLM2-135M on one core."""


class RowScore(NamedTuple):
    """The scores of one model on one row: log-likelihood (nats) of each answer to choose among, in order; the gold
    one's number; whether greedy decoding would begin with the gold answer; and the number of tokens of an answer in
    sentences (else 0)."""

    scores: tuple[float, ...]
    gold: int
    greedy: bool
    tokens: int = 0

    @property
    def right(self) -> bool:
        """True when the gold answer is the likeliest; without others to choose among, when greedy decoding would say
        it."""
        if len(self.scores) == 1:
            return self.greedy
        return max(range(len(self.scores)), key=self.scores.__getitem__) == self.gold

    @property
    def gold_log_likelihood(self) -> float:
        """Log-likelihood of the gold answer in nats among all that could be said; for sentences the mean a token."""
        return self.scores[self.gold] / max(1, self.tokens)

    @property
    def gold_probability(self) -> float:
        """Probability of the gold answer among those to choose from; without others, among all that could be said; for
        sentences the geometric mean a token."""
        if len(self.scores) == 1:
            return math.exp(self.gold_log_likelihood)
        best = max(self.scores)
        return math.exp(self.scores[self.gold] - best) / sum(math.exp(score - best) for score in self.scores)


class Scorer:
    """One base model with any number of its adapters, scored with the same activations below the first adapted layer.

    `adapters` maps a name to a PEFT folder; the name "base" stands for no adapter. `cells` is the folder of finished
    rows: one JSONL file for each pair of model and rows, named by their hashes, so that nothing is scored twice and an
    interruption loses one pass.

    Raises:
        InvalidLearnware: an adapter cannot be served, or cannot be loaded without changing the base.
    """

    def __init__(self, base: Path, base_id: str, adapters: dict[str, Path], cells: Path, device: str = "cpu"):
        check_measurable(adapters)
        self.model, self.tokenizer = load_base(base, device, computing_type(device))
        self.depth = self.model.config.get_text_config().num_hidden_layers
        self.cells = cells
        self.hashes = {name: adapter_hash(folder) for name, folder in adapters.items()}
        self.hashes[BASE] = hashlib.sha256(base_id.encode()).hexdigest()
        self.first = min((first_layer(folder) for folder in adapters.values()), default=self.depth)
        self._stack: tuple[str, Stack] | None = None
        self._shared = SharedBase(self.model)
        for name, folder in adapters.items():
            self._shared.attach(name, folder)

    def score(
        self, rows: Sequence[Row], name: str, progress: Callable[[int], None], kind: AnswerKind | None = None
    ) -> list[RowScore]:
        """Returns the scores of `rows` by the named model, in the rows' order.

        Args:
            progress: called with the number of rows done.
            kind: kind of the whole task's answers, for callers that bring a few of its rows at a time; None takes that
                of these rows.
        """
        text = (kind or rows_kind(rows)) == "text"
        prompts = [encode_prompt(row.prompt, self.tokenizer, MAX_LENGTH, row.before) for row in rows]
        answers = [
            [
                encode_answer(answer, self.tokenizer, end=not row.choices and not text)
                for answer in row.candidates() or (row.answer,)
            ]
            for row in rows
        ]
        stack = self._stack_for(rows, prompts)
        order = sorted(range(len(rows)), key=lambda i: len(prompts[i]) + sum(map(len, answers[i])))
        path = self._cell(rows, name, "-text" if text else "")
        done = read_cell(path)
        waiting = [i for i in order if i not in done]
        stack.forget_upper_prefix()
        lengths = [len(prompts[i]) + sum(len(answer) - 1 for answer in answers[i]) for i in waiting]
        with self.using(name), path.open("a", encoding="utf-8") as file:
            for begin, end in passes([length - len(stack.prefix) for length in lengths]):
                progress(len(done))
                part = waiting[begin:end]
                scored = _score_pass(stack, [prompts[i] for i in part], [answers[i] for i in part], part)
                for i, (scores, greedy) in zip(part, scored, strict=True):
                    gold = rows[i].candidates().index(rows[i].answer) if rows[i].choices else 0
                    done[i] = RowScore(scores, gold, greedy[gold], len(answers[i][gold]) if text else 0)
                    file.write(json.dumps({"row": i, **done[i]._asdict()}) + "\n")
                file.flush()
        progress(len(done))
        return [done[i] for i in range(len(rows))]

    def say(self, rows: Sequence[Row], name: str, max_tokens: int, progress: Callable[[int], None]) -> list[str]:
        """Returns the named model's greedy answers to the rows' prompts, of at most `max_tokens` tokens, in their
        order."""
        path = self._cell(rows, name, f"-said-{max_tokens}")
        done = {item["row"]: str(item["text"]) for item in read_lines(path)}
        prompts = {
            i: encode_prompt(row.prompt, self.tokenizer, MAX_LENGTH, row.before)
            for i, row in enumerate(rows)
            if i not in done
        }
        waiting = sorted(prompts, key=lambda i: len(prompts[i]))
        with self.using(name), path.open("a", encoding="utf-8") as file:
            for begin in range(0, len(waiting), ROWS_A_BATCH):
                part = waiting[begin : begin + ROWS_A_BATCH]
                progress(len(done))
                answers = greedy_answers(self.model, self.tokenizer, [prompts[i] for i in part], max_tokens)
                for i, answer in zip(part, answers, strict=True):
                    done[i] = answer.text(self.tokenizer)
                    file.write(json.dumps({"row": i, "text": done[i]}) + "\n")
                file.flush()
        progress(len(done))
        return [done[i] for i in range(len(rows))]

    def _cell(self, rows: Sequence[Row], name: str, ending: str) -> Path:
        return self.cells / f"{self.hashes[name][:16]}-{rows_hash(rows)[:16]}{ending}-{CELLS}.jsonl"

    def _stack_for(self, rows: Sequence[Row], prompts: Sequence[list[int]]) -> Stack:
        """Returns the model as it runs over these rows; for the same rows as before the last one, with the activations
        it has kept."""
        key = rows_hash(rows)
        if self._stack is None or self._stack[0] != key:
            self._stack = key, Stack(self.model, self.first, prompts[0][: common_prefix(prompts)])
            self._stack[1].keep_upper_prefix = True
        return self._stack[1]

    def using(self, name: str) -> AbstractContextManager[None]:
        """Activates the named adapter, or none, inside the context."""
        return self._shared.using(None if name == BASE else name)

    def check_integrity(self) -> None:
        """Raises RuntimeError when a weight of the base model is not what it was when it was loaded."""
        self._shared.check_integrity()


def read_cell(path: Path) -> dict[int, RowScore]:
    """Reads the row scores of a file, by row number."""
    return {
        item["row"]: RowScore(tuple(item["scores"]), item["gold"], item["greedy"], item.get("tokens", 0))
        for item in read_lines(path)
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads the objects of a JSONL file that is written a line at a time, and makes the folder for it. An incomplete
    last line is dropped from the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def passes(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cuts rows of ascending lengths into passes [begin, end), padded to their longest, so that the total cost is
    least."""
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first rows, and where their last pass begins
    for end in range(1, len(lengths) + 1):
        best.append(
            min(
                (best[begin][0] + (end - begin) * lengths[end - 1] + PASS_TOKENS, begin)
                for begin in range(max(0, end - ROWS_A_PASS), end)
            )
        )
    cuts = [len(lengths)]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    return list(zip(cuts[:0:-1], cuts[-2::-1], strict=True))


def _score_pass(
    stack: Stack, prompts: Sequence[list[int]], answers: Sequence[list[list[int]]], indices: Sequence[int]
) -> list[tuple[tuple[float, ...], tuple[bool, ...]]]:
    """Returns for each row the summed log-probability of each answer, and whether all its tokens are the likeliest
    ones."""
    with torch.no_grad():
        if stack.divided:
            batch, answer_of = stack.choice_batch(prompts, answers, indices)
            row_of = batch.row
        else:
            pairs = [(r, a) for r, row in enumerate(answers) for a in range(len(row))]
            batch = stack.batch([EncodedRow(prompts[r], answers[r][a]) for r, a in pairs], [-1] * len(pairs))
            row_of = torch.tensor([r for r, _ in pairs], device=stack.device)[batch.row]
            answer_of = torch.tensor([a for _, a in pairs], device=stack.device)[batch.row]
        log_probs, likeliest = stack.log_probs_and_greedy(batch)
    sums = [[0.0] * len(row) for row in answers]
    greedy = [[True] * len(row) for row in answers]
    columns = zip(row_of.tolist(), answer_of.tolist(), log_probs.tolist(), likeliest.tolist(), strict=True)
    for row, answer, log_prob, likely in columns:
        sums[row][answer] += log_prob
        greedy[row][answer] &= likely
    return [(tuple(round(value, 5) for value in row), tuple(flags)) for row, flags in zip(sums, greedy, strict=True)]


def first_layer(folder: Path) -> int:
    """Returns the number of the first layer that an adapter changes."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    layers = config.get("layers_to_transform")
    return min(layers) if isinstance(layers, list) and layers else layers if isinstance(layers, int) else 0
