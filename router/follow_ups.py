"""Tells a turn that only makes sense after what was said before ("explain that in one sentence") from one with a topic
of its own ("write a poem about autumn").

Both fit no learnware when they are looked at alone. A turn counts as a follow-up when the nearest of the project's own
follow-up phrases (`follow_ups.txt`) is at least as near as the nearest of its everyday prompts, by cosine.
"""

import importlib.resources

from specs.encoder import Encoder
from specs.prompts import everyday_prompts


class FollowUps:
    """Holds both sets of vectors: some hundred of each, compared in about 50 µs."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._follow_ups = encoder.encode(follow_up_phrases())
        self._topics = encoder.encode(everyday_prompts())

    def includes(self, turn: str) -> bool:
        """Whether the turn needs what was said before it."""
        vector = self._encoder.encode([turn])[0]
        return bool((self._follow_ups @ vector).max() >= (self._topics @ vector).max())


def follow_up_phrases() -> list[str]:
    """The project's own phrases, in several languages."""
    text = importlib.resources.files("router").joinpath("follow_ups.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("# ")]
