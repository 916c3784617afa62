"""The rows of a task: reading, checking, hashing, shuffling of answers, and tokens in chat form.

A row has a `prompt` (what the user says), an `answer` (what the assistant must say) and, where the answer is one of a
few, `choices`: the labels themselves, or, for multiple choice, the texts of the options while `answer` is the letter.
Without choices the answer is a number, a span or sentences (`rows_kind`). Chats and other forms are read as such rows
(`specs.row_forms`); the messages before a prompt, a system prompt among them, stand before it in training as well.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from specs.answers.description import AnswerKind, answer_kind
from specs.errors import InvalidInput
from specs.row_forms import KNOWN, FormedRow, Message, formed_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Letters of the options of a multiple-choice question, in order."""


class Row(NamedTuple):
    """One example of a task."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    before: tuple[Message, ...] = ()
    """Messages before the prompt."""

    def candidates(self) -> tuple[str, ...]:
        """Returns the answers to choose among: labels as they stand, letters for multiple choice, nothing for free
        answers."""
        if not self.choices or self.answer in self.choices:
            return self.choices
        return tuple(LETTERS[: len(self.choices)])


class EncodedRow(NamedTuple):
    """Token ids of a row: the prompt as one user turn, up to where the assistant speaks; the answer and the end of
    turn."""

    prompt: list[int]
    answer: list[int]


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a file, in any form of `specs.row_forms`.

    Raises:
        InvalidInput: the file is missing, empty, or a line is not a row with an answer; the message names the line.
    """
    rows = [_row(formed, place) for place, formed in formed_rows(path)]
    if not rows:
        raise InvalidInput(f"{path} has no rows; expected is {KNOWN}")
    return rows


def _row(formed: FormedRow, place: str) -> Row:
    row = Row(*formed)
    if not row.answer:
        raise InvalidInput(f"{place}: the row has no answer to learn from; known forms are {KNOWN}")
    if row.choices and row.answer not in row.candidates():
        raise InvalidInput(f"{place}: answer {row.answer!r} is neither one of the choices nor the letter of one")
    return row


def rows_kind(rows: Sequence[Row]) -> AnswerKind:
    """Returns the kind of these rows' answers, taken together (`specs.answers.description.answer_kind`)."""
    return answer_kind([row.answer for row in rows], [row.choices for row in rows])


def rows_hash(rows: Sequence[Row]) -> str:
    """Returns SHA-256 over the rows' content, in order: it names what was trained or scored on, whatever the file was
    called."""
    digest = hashlib.sha256()
    for row in rows:
        content: list[Any] = [row.prompt, row.answer, list(row.choices)]
        if row.before:
            content.append(row.before)
        digest.update(json.dumps(content, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def shuffle_answers(rows: Sequence[Row], seed: int) -> list[Row]:
    """Returns the same prompts with the answers dealt out anew: the control that can learn format and label frequencies
    only.

    Answers move only between rows with equally many choices, so that a letter always has an option to stand for.
    """
    generator = random.Random(f"shuffle-answers-{seed}")  # noqa: S311 - nothing secret
    shuffled = list(rows)
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(len(row.choices), []).append(index)
    for members in groups.values():
        answers = [rows[index].answer for index in members]
        generator.shuffle(answers)
        for index, answer in zip(members, answers, strict=True):
            shuffled[index] = rows[index]._replace(answer=answer)
    return shuffled


def hold_out(rows: Sequence[Row], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Returns the indices of the rows to train on and of those held out, drawn by the prompts' hashes whatever their
    order."""
    ranked = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{seed}\n{rows[i].prompt}".encode()).digest())
    held = max(1, round(len(rows) * share))
    return sorted(ranked[held:]), sorted(ranked[:held])


def encode_rows(rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> list[EncodedRow]:
    """Encodes rows as tokens. Too long a prompt loses its middle, never its beginning nor its end."""
    return [
        EncodedRow(encode_prompt(row.prompt, tokenizer, max_length, row.before), encode_answer(row.answer, tokenizer))
        for row in rows
    ]


def encode_prompt(
    prompt: str, tokenizer: "PreTrainedTokenizerBase", max_length: int, before: Sequence[Message] = ()
) -> list[int]:
    """Encodes one user turn, below the messages before it, through the chat template (plain text if there is none), as
    at most `max_length` tokens."""
    messages = (*before, Message("user", prompt))
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            [message._asdict() for message in messages], tokenize=False, add_generation_prompt=True
        )
        ids = list(tokenizer(str(text), add_special_tokens=False)["input_ids"])
    else:
        ids = list(tokenizer("\n".join(message.content for message in messages))["input_ids"])
    if len(ids) <= max_length:
        return ids
    head = max_length // 3
    return ids[:head] + ids[len(ids) - (max_length - head) :]


def encode_answer(answer: str, tokenizer: "PreTrainedTokenizerBase", end: bool = True) -> list[int]:
    """Encodes the answer, followed (with `end`) by the token that ends the turn."""
    ids = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if end else ids


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Returns how many leading tokens all rows share, at most so many that each row keeps a token of its own; 0 for no
    rows."""
    if not rows:
        return 0
    first, last = min(map(list, rows)), max(map(list, rows))
    shared = 0
    for a, b in zip(first, last, strict=False):
        if a != b:
            break
        shared += 1
    return min(shared, min(len(row) for row in rows) - 1)
