"""The same prompts seen without their wording: what is left when the instruction is different."""

ANSWER_CUE_CHARS = 20
"""A last line this short that ends in a colon ("Answer:", "Answer to Q2:", "答案：") asks for the answer and says
nothing else."""


def bare_prompt(prompt: str) -> str:
    """The prompt without its first line (the instruction) and without an answer cue at its end. A prompt of one line
    is all content and only loses the cue."""
    lines = prompt.split("\n")
    if len(lines) > 1:
        lines = lines[1:]
    while len(lines) > 1 and _is_cue(lines[-1]):
        lines.pop()
    return "\n".join(lines)


def _is_cue(line: str) -> bool:
    text = line.strip()
    return len(text) <= ANSWER_CUE_CHARS and text.endswith((":", "："))
