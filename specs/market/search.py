"""Finds learnwares by the words and tags of their cards."""

from collections.abc import Iterable, Sequence

from specs.card import Card
from specs.market.journal import Record


def search(
    records: Iterable[Record],
    text: str = "",
    *,
    domain: str | None = None,
    task: str | None = None,
    language: str | None = None,
) -> list[Record]:
    """Returns the records whose card holds every word of `text`, in any case, and has the domain, task and language
    asked for; the best match first, then by id."""
    words = text.casefold().split()
    scored = []
    for record in records:
        card = record.card
        if card is None or domain not in (None, card.domain):
            continue
        if (task and task not in card.tasks) or (language and language not in card.languages):
            continue
        score = _score(words, card)
        if score is not None:
            scored.append((-score, record.id, record))
    return [record for _, _, record in sorted(scored, key=lambda item: item[:2])]


def _score(words: Sequence[str], card: Card) -> int | None:
    """Scores a card: a word in the name counts 4, in a tag 2, in the description 1; None if one of them is nowhere."""
    tags = " ".join((card.id, card.domain, *card.tasks, *card.languages, *card.semantics.scenarios)).casefold()
    places = ((card.name.casefold(), 4), (tags, 2), (card.description.casefold(), 1))
    total = 0
    for word in words:
        weight = sum(value for place, value in places if word in place)
        if not weight:
            return None
        total += weight
    return total
