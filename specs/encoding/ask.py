"""Divides a prompt into its ask and the material that it brings along.

A prompt is an *ask* (an instruction, a question, a cue) and *material* (the text that it is about, often pasted). The
same material may come with any ask, and the same ask with any material, so both are looked at by themselves. Asks stand
at the ends: in the first or the last sentences or lines. Each sentence there gets a score for how much it looks like an
ask (a question mark, an opening verb, words such as "answer with one of"), and the best ones are the ask; the rest is
the material. Where nothing looks like an ask, the first and the last sentence stand for it: short notes ("in French",
"tl;dr") are asks as well.

This is a heuristic on purpose: it only has to give requests and specifications the same view of a prompt, in a tenth of
a millisecond for a line and about one for a page. The meaning of an ask is in its vector
(`specs.encoding.ask_encoder`).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

HEAD_CHARS = 1200
"""Characters that are read from the beginning of a long text, as in `specs.encoding.encoder`: asks stand at its
ends."""
TAIL_CHARS = 800
"""Characters that are read from the end of a long text."""
SPLITS_KEPT = 256
"""Prompts whose parts are kept: at most 1 MB; dividing one takes 0.1 ms (a line) to 1 ms (a page)."""
LOOKED_AT = 4
"""Sentences from either end among which an ask is looked for."""
MOST = 3
"""The most sentences that make up an ask: an instruction, the form of the answer, a question."""
ASK_CHARS = 200
"""Characters of a sentence that count: a longer one brings material along, at its end as a rule."""
LIKELY = 1.2
"""The score from which a sentence is taken for an ask: a question mark, an opening verb, or two lesser signs."""

_ENDS = re.compile(r"""(?<=[.!])["'”’)\]]{0,3}\s+(?=[^\s\da-z])|(?<=[?？])["'”’)\]]{0,3}\s+|(?<=[。？！])|\n+""")
"""The end of a sentence or a line. A full stop before a small letter or a digit is an abbreviation ("Rs. 240")."""
_CUE = re.compile(r"([^\n:：]{3,160}[:：])\s+(?=\S)")
"""A cue: a colon near the beginning, which closes an ask ("Sentiment towards BP: …")."""
_LETTER = re.compile(r"[(]?(?:[A-Za-z]|\d{1,2})[.)]$")
_OPTION = re.compile(r"[(]?(?:[A-Za-z]|\d{1,2})[.):]\s")
_FIELD = re.compile(r"\W{0,3}[\w ]{0,20}[:：]$")
"""The name of a field ("Answer:", "Passage:"), which asks for nothing by itself."""
_FRAME_NAME = (
    r"\W{0,3}(?:the |your |final )?(?:answer|response|reply|result|output|solution|question|problem|prompt|query|input"
    r"|user|assistant|q|a|antwort|frage|aufgabe|lösung|respuesta|pregunta|réponse|答案|回答|问题|問題|答|问)"
    r"[ \d]{0,4}\W{0,3}[:：]"
)
_FRAME = re.compile(rf"{_FRAME_NAME}\W{{0,3}}$", re.IGNORECASE)
_FRAME_BEFORE = re.compile(rf"{_FRAME_NAME}\s+(?=\S)", re.IGNORECASE)
"""A name before a whole prompt that says no more than that it is one: "Question: … Answer:"."""
_ANSWER = re.compile(r"(?:the )?answer\W{0,3}$", re.IGNORECASE)
_COURTESY = re.compile(
    r"(?:(?:many )?thanks?(?: you)?\b.{0,30}|thx.{0,10}"
    r"|(?:(?:can|could|would) you )?(?:please,? )?help(?: me)?(?: out)?(?: here| with (?:this|that|it))?(?:,? please)?"
    r"|(?:hi|hello|hey|dear|good (?:morning|evening|afternoon))\b.{0,20}"
    r"|(?:kind |best )?regards.{0,20}|cheers)\W{0,3}$",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[^\W\d_]+(?:'\w+)?")
_QUESTION_WORDS = """
    what which who whom whose how when where is are was were do does did can could would should will shall has have
"""
_ENGLISH = """
    why please translate summarise summarize summary explain write list give tell classify identify decide answer
    reply respond choose pick select name find label describe say state determine judge rate read predict compute
    calculate work solve rewrite convert make create show extract help want need assign tag mark output return provide
    generate paraphrase simplify compare define correct fix check proofread continue complete turn rephrase shorten
    expand count estimate evaluate analyse analyze discuss suggest propose recommend draft compose design plan prove
    derive add remove replace sort rank guess sentiment categorise categorize detect recognise recognize look consider
    use act pretend imagine let's gimme show quiz teach grade review highlight outline plot render sketch put play file
    keep bring cut set pull break point spell sum invent argue criticise criticize debate phrase restate condense distil
    recap share verify confirm test validate assess score weigh order arrange group cluster map match link fill insert
    edit polish improve refine format structure encode transcribe transliterate interpret clarify elaborate illustrate
    demonstrate note quote cite search call ask warn remind assume suppose form pose word reduce increase number specify
    tldr section subject category label class type topic tone mood polarity operation decision diagnosis
    translation meaning definition explanation
"""
"""Words with which people begin an instruction or a cue ("Section: …"), and "why", which asks for an explanation."""
_OTHER_LANGUAGES = """
    qué que cuál cuáles cómo cuánto cuántos por traduce resume explica escribe dime clasifica quel quelle
    quels quelles comment pourquoi combien traduis traduire résume résumez expliquez explique écris donne donnez was
    welche welcher welches wie warum wieso wann übersetze übersetzen fasse erkläre schreibe nenne gib ordne bestimme
"""
"""Question words and opening verbs in Spanish, French and German."""
_QUESTIONS = frozenset(_QUESTION_WORDS.split())
_OPENERS = _QUESTIONS | frozenset(f"{_ENGLISH} {_OTHER_LANGUAGES}".split())
_PHRASES = re.compile(
    r"answer (?:with|only|in|by)|reply with|respond with|one of\b|\bor\b[^.]{0,40}\?"
    r"|^[^.?!]{0,60}\bor\b[^.?!]{0,60}[:.?]?$"
    r"|(?:one|single) word|\bletter\b|\bjson\b"
    r"|step by step|the (?:following|above|preceding)\b"
    r"|\bthis (?:text|passage|tweet|post|sentence|headline|problem|question"
    r"|abstract|article|paragraph|clause|document|message)"
    r"|请|選擇|选择|答案|翻译|翻譯|解释|解釋|总结|總結|什么|什麼|如何|多少|求",
    re.IGNORECASE,
)


_FORM = re.compile(
    r"(?:please,? )?"
    r"(?:answer|reply|respond|end|finish|conclude|output|return|choose|pick|select|state|give|use|write)\b[^.\n]{0,30}?"
    r"\b(?:with|only|one of|in one|a single|exactly|as an?|the (?:final )?(?:number|letter|label|result))\b",
    re.IGNORECASE,
)
"""A sentence on the form of the answer, such as "Answer with one of: …" or "End with the final number"."""


class Prompt(NamedTuple):
    """A prompt in its two parts. `ask` holds the sentences that ask, in the prompt's order, each cut to `ASK_CHARS`; it
    is empty only for an empty prompt. `material` is the rest. If nothing is left, or nothing but courtesy, the material
    is the ask itself and `is_all_ask` is true."""

    ask: tuple[str, ...]
    material: str
    is_all_ask: bool = False


def split_prompt(text: str) -> Prompt:
    """Returns the ask and the material of a prompt. Never raises; reads at most `HEAD_CHARS` and `TAIL_CHARS` of it.

    A choice looks at a prompt's parts more than once, so the latest are kept.
    """
    return _split(_ends(text))


@lru_cache(maxsize=SPLITS_KEPT)
def _split(text: str) -> Prompt:
    text = text.lstrip()
    named = _FRAME_BEFORE.match(text)
    sentences = _without_surroundings(_sentences(text[named.end() :] if named else text))
    if not sentences:
        return Prompt((), text)
    count = len(sentences)
    at_ends = [i for i in range(count) if i < LOOKED_AT or i >= count - LOOKED_AT]
    scores = {i: _likeness(sentences[i], i in (0, count - 1)) for i in at_ends}
    likely = sorted((i for i in at_ends if scores[i] >= LIKELY), key=lambda i: (-scores[i], i))[:MOST]
    chosen = sorted(likely) or _ends_without_courtesy(sentences)
    asked = [sentences[i] for i in chosen]
    rest = [sentence for i, sentence in enumerate(sentences) if i not in chosen]
    # "(9)" or "Verdict:" after a question is no material.
    brings_material = any(map(_brings_material, rest))
    material = "\n".join(rest) if brings_material else " ".join(asked)
    return Prompt(tuple(sentence[:ASK_CHARS] for sentence in asked), material, not brings_material)


def _brings_material(sentence: str) -> bool:
    return bool(_WORDS.search(sentence)) and not (_COURTESY.match(sentence) or _FIELD.match(sentence))


def sentences_of(text: str) -> list[str]:
    """Returns the sentences and lines at the ends of a text, or of the whole text if it is not long."""
    return _sentences(_ends(text))


def _ends(text: str) -> str:
    return text if len(text) <= HEAD_CHARS + TAIL_CHARS else f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def _without_surroundings(sentences: list[str]) -> list[str]:
    """Drops what people put around any request: courtesy before and after it, and a cue for the answer ("Answer:") or
    for the question. It belongs neither to the ask nor to the material."""
    first, last = 0, len(sentences)
    while first < last and _surrounds(sentences[first]):
        first += 1
    while first < last and _surrounds(sentences[last - 1]):
        last -= 1
    return sentences[first:last] or sentences


def _surrounds(sentence: str) -> bool:
    return bool(_COURTESY.match(sentence) or _FRAME.match(sentence))


def _sentences(text: str) -> list[str]:
    """Returns sentences and lines, without blanks around them. A cue at the very beginning counts as one where its
    material follows on the same line, and an option's letter stays with its text."""
    sentences: list[str] = []
    lines = sum(bool(line.strip()) and not _FRAME.match(line.strip()) for line in text.splitlines())
    for part in _ENDS.split(text):
        sentence = part.strip()
        if not sentence:
            continue
        if sentences and _LETTER.match(sentences[-1]):
            sentences[-1] += " " + sentence
            continue
        cue = None if sentences or (lines > 1 and len(sentence) <= ASK_CHARS) else _CUE.match(sentence)
        if cue:
            sentences += [cue.group(1), sentence[cue.end() :]]
        else:
            sentences.append(sentence)
    return sentences


def _likeness(sentence: str, at_an_end: bool) -> float:
    """Scores how much a sentence looks like an ask, from about -2 to 5."""
    if _COURTESY.match(sentence):
        return -1.0
    score = 2.0 if sentence.rstrip("\"')”’").endswith(("?", "？", "؟")) else 0.0
    opens = _opens(sentence)
    if opens:
        score += 1.2
    if _PHRASES.search(sentence, 0, 300):
        score += 0.8
    if at_an_end:
        score += 0.6
    if _FORM.match(sentence):
        score += 1.2  # a list of labels may make it long
    elif len(sentence) > 1.2 * ASK_CHARS:
        score -= 1.5
    if _FIELD.match(sentence) and not opens:
        score -= 0.7
    return score


def _opens(sentence: str) -> bool:
    """Whether a sentence begins as instructions and questions do."""
    return _first_word(sentence) in _OPENERS and not _ANSWER.match(sentence)


def instructs(ask: Sequence[str]) -> bool:
    """Whether a sentence of an ask begins as an instruction ("Explain …", "Why …") and not as a question does."""
    return any(_opens(sentence) and _first_word(sentence) not in _QUESTIONS for sentence in ask)


def _first_word(sentence: str) -> str:
    first = _WORDS.search(sentence)
    return first.group().lower() if first else ""


def _ends_without_courtesy(sentences: list[str]) -> list[int]:
    kept = [i for i, sentence in enumerate(sentences) if not (_COURTESY.match(sentence) or _OPTION.match(sentence))]
    kept = kept or list(range(len(sentences)))
    return sorted({kept[0], kept[-1]})
