"""Makes prompts of a fixed number of tokens for load: a task's instruction, made-up content, and the cue to answer.

Seeded, and no two alike, so that a prefix cache finds nothing in them but chat template and instruction.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple


class Kind(NamedTuple):
    """The parts of prompts for one learnware: `head`, then as many sentences made from `sentences` as fit, then
    `tail`."""

    learnware: str
    head: str
    sentences: tuple[str, ...]
    tail: str


WORDS = {
    "company": ("Halden Steel", "Orbis Foods", "Marlow Energy", "Tarn Software", "Quill Bank", "Vesper Air"),
    "ticker": ("$HLD", "$ORBF", "$MRLW", "$TRNS", "$QBK", "$VSPR"),
    "change": ("beats estimates", "cuts its guidance", "opens lower", "hits a new high", "keeps its dividend"),
    "percent": ("2", "4.5", "7", "11", "13.2", "19"),
    "drug": ("metformin", "enalapril", "a low dose of aspirin", "vitamin D", "an inhaled corticosteroid"),
    "illness": ("type 2 diabetes", "chronic heart failure", "asthma", "rheumatoid arthritis", "acute pancreatitis"),
    "group": ("elderly patients", "children under five", "pregnant women", "patients after surgery", "adult smokers"),
    "number": ("12", "27", "34", "48", "56", "65", "83", "96"),
    "person": ("Mira", "Jonas", "Aiko", "Pedro", "Lena", "Omar"),
    "thing": ("apples", "marbles", "stickers", "books", "tickets", "cookies"),
}

KINDS = (
    Kind(
        "finance-tfns",
        "What is the sentiment of this financial tweet? Answer with one of: positive, neutral, negative.\n",
        (
            "{ticker} {change} after the close, shares move {percent}% in late trading.",
            "{company} {change} as analysts lift the price target to ${number}.",
            "Market wrap: {ticker} up {percent}%, {company} {change}, bonds flat.",
        ),
        "\nAnswer:",
    ),
    Kind(
        "finance-fiqa_sa",
        "What is the sentiment of this financial microblog post towards {company}? Answer with one of: positive, "
        "neutral, negative.\n",
        (
            "Still long {ticker} here, the chart looks strong above {number}.",
            "{company} {change}, I sold half and keep the rest for earnings.",
            "Watching {ticker} for a break of {number}, volume is {percent}% above average.",
        ),
        "\nAnswer:",
    ),
    Kind(
        "finance-fin_ner_type",
        "What is the entity type of 'Borrower' in this sentence from a financial agreement? Answer with one of: "
        "location, organization, person.\n",
        (
            "The Borrower shall repay to {company} the principal of the Loan , together with interest of {percent} % .",
            "This Loan Agreement is made between {company} ( the Lender ) and the Borrower on day {number} .",
            "Neither Party may assign or transfer its rights and obligations under Section {number} of the Agreement .",
        ),
        "\nAnswer:",
    ),
    Kind(
        "healthcare-pubmedqa",
        "Answer the biomedical question from the abstract. Answer with one of: yes, no, maybe.\nAbstract: ",
        (
            "We studied whether {drug} lowers the risk of {illness} in {group}.",
            "In all, {number} of the {group} received {drug} and were followed for {number} months.",
            "The incidence of {illness} fell by {percent}% in the treated group (P = 0.03).",
        ),
        "\nQuestion: Does the treatment reduce the risk?\nAnswer:",
    ),
    Kind(
        "healthcare-pubmed_section",
        "Which section of a medical abstract is this passage from? Answer with one of: background, objective, methods, "
        "results.\nPassage: ",
        (
            "{group} with {illness} were randomly assigned to {drug} or placebo for {number} weeks.",
            "The primary outcome was admission for {illness} within {number} days.",
            "Of {number} participants, {percent}% had an adverse event under {drug}.",
        ),
        "\nAnswer:",
    ),
    Kind(
        "healthcare-medqa_usmle",
        "The following is a medical licensing exam question.\nQuestion: ",
        (
            "A {number}-year-old man with {illness} comes to the physician because of fatigue for {number} days.",
            "He has taken {drug} for {number} months, and his temperature is 37.4 degrees.",
            "Laboratory studies show a haemoglobin of {percent} g/dL and a leukocyte count of {number}00.",
        ),
        " What is the next step?\nA. Stop the drug\nB. Imaging\nC. Observation\nD. Surgery\n"
        "Answer with the letter only.\nAnswer:",
    ),
    Kind(
        "mathematics-svamp_operation",
        "Which arithmetic operation solves this problem? Answer with one of: addition, subtraction, multiplication, "
        "division.\nProblem: ",
        (
            "{person} had {number} {thing} and gave {number} of them to {person}.",
            "There were {number} {thing} in one box and {number} {thing} in another box.",
            "{person} bought {number} {thing} at the fair.",
        ),
        " How many are left?\nAnswer:",
    ),
    Kind(
        "mathematics-gsm8k_first_operation",
        "Which arithmetic operation comes first when this problem is solved step by step? Answer with one of: "
        "addition, subtraction, multiplication, division.\nProblem: ",
        (
            "{person} sells {number} {thing} each day at ${number} a piece and saves {percent}% of the money.",
            "Every week {person} puts {number} {thing} into each of {number} bags.",
            "In the third week {person} uses twice as many {thing} as in the first.",
        ),
        " How much does it come to after four weeks?\nAnswer:",
    ),
)

Count = Callable[[str], Awaitable[int]]
"""Counts the tokens of a chat with one user message, chat template included."""

PADDING = " now"
"""Padding that is one token in the vocabularies of the models in use; the prompt is counted again after it is added."""


def _fill(template: str, random_: random.Random) -> str:
    """Returns the template with its names replaced, each time by another random word of their list."""
    for name, choices in WORDS.items():
        while f"{{{name}}}" in template:
            template = template.replace(f"{{{name}}}", random_.choice(choices), 1)
    return template


def _sentences(kind: Kind, random_: random.Random) -> Iterator[str]:
    while True:
        yield _fill(random_.choice(kind.sentences), random_)


def text_of(kind: Kind, words: int, seed: int) -> str:
    """Returns a prompt of this kind whose content has `words` words; instruction and cue come on top."""
    random_ = random.Random(seed)
    head, tail = _fill(kind.head, random_), _fill(kind.tail, random_)
    found: list[str] = []
    for sentence in _sentences(kind, random_):
        found += sentence.split()
        if len(found) >= words:
            break
    return head + " ".join(found[:words]) + tail


async def prompt(kind: Kind, tokens: int, seed: int, count: Count) -> str:
    """Returns a prompt of this kind that counts exactly `tokens`.

    Raises:
        ValueError: `tokens` is less than instruction and cue take, or the tokenizer has no padding of one token.
    """
    random_ = random.Random(seed)
    head, tail = _fill(kind.head, random_), _fill(kind.tail, random_)
    sentences = _sentences(kind, random_)
    words: list[str] = []
    while await count(head + " ".join(words) + tail) <= tokens:
        words += next(sentences).split()
    # the most words that do not go beyond; found by halving, since a word has one token or more
    low, high = 0, len(words) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if await count(head + " ".join(words[:middle]) + tail) <= tokens:
            low = middle
        else:
            high = middle - 1
    body = " ".join(words[:low])
    for _ in range(8):
        missing = tokens - await count(head + body + tail)
        if missing == 0:
            return head + body + tail
        if missing < 0 or not body:
            break
        body += PADDING * missing
    raise ValueError(f"no prompt of exactly {tokens} tokens for {kind.learnware}")
