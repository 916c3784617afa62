"""Rules of choice that are compared: the router's rule as it serves, the rule with parts of it switched off, and two
baselines that need no specification of asks.

All choose for a `router.turn.Conversation`, so that conversations, system prompts and wrapped requests are seen as the
router sees them. Vectors are kept by text: one text is encoded once, whichever rules look at it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from router.conversation import Conversations, ConversationSettings, by_readings
from router.follow_ups import FollowUps
from router.request import DEFAULT_WORDS
from router.selection import Choice, Selector
from router.settings import SelectionSettings
from router.turn import Conversation
from specs.capability import Capability
from specs.encoding.ask_encoder import ASK_DIM
from specs.encoding.encoder import STATIC_ENCODER, PromptEncoder, load_encoder, load_prompt_encoder
from specs.home import EVERYDAY, Home, load_home
from specs.learnware import Learnware
from specs.off_task import Kind, OffTaskScore
from specs.rkme import ReducedSet
from specs.specification import Specification

Matrix = NDArray[np.float32]


KEPT = OffTaskScore(prompts=48, drift=-0.1, drift_error=0.02, degenerate=1)
"""The measured behaviour off the task of a learnware that keeps the base model's, as `learnware-serving train` makes
them."""


def keeping_base(learnwares: Sequence[Learnware]) -> list[Learnware]:
    """Returns the learnwares as if each had been measured to keep the base model's behaviour off its task (`KEPT`). The
    ones in the project's folders are unmeasured, so the rule assumes that they lose most of it; a market measures
    learnwares at intake."""
    return [
        replace(
            one,
            capability=replace(one.capability or Capability(one.base_model, ""), elsewhere=dict.fromkeys(Kind, KEPT)),
        )
        for one in learnwares
    ]


class Chooser(Protocol):
    """A rule that chooses a learnware, or the base model, for a conversation."""

    @property
    def name(self) -> str: ...

    def choose(self, conversation: Conversation) -> Choice: ...


class RememberingEncoder:
    """An encoder that keeps every text's vector, so that each text is encoded once."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self.id, self.dim, self.fingerprint = encoder.id, encoder.dim, encoder.fingerprint
        self._kept: dict[str, Matrix] = {}

    def encode(self, texts: Sequence[str]) -> Matrix:
        for text in texts:
            if text not in self._kept:
                self._kept[text] = self._encoder.encode([text])[0]
        return np.stack([self._kept[text] for text in texts])


class WithoutAsk:
    """An encoder whose vectors hold zeros in the place of the ask."""

    def __init__(self, encoder: RememberingEncoder) -> None:
        self._encoder = encoder
        self.id, self.dim, self.fingerprint = encoder.id, encoder.dim, encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Matrix:
        return without_ask(self._encoder.encode(texts))


def without_ask(vectors: Matrix) -> Matrix:
    changed = np.array(vectors, np.float32)
    changed[:, -ASK_DIM:] = 0.0
    return changed


class OurRule:
    """The router's rule, put together as `router.deployment` does."""

    def __init__(
        self,
        learnwares: Sequence[Learnware],
        encoder: RememberingEncoder | WithoutAsk,
        settings: SelectionSettings,
        name: str = "auto",
        follow_ups: FollowUps | None = None,
        readings: bool = True,
    ) -> None:
        """With `readings` False the rule reads the user's turn alone, without the system prompt."""
        self.name = name
        self.selector = Selector(learnwares, encoder, settings)
        self.follow_ups = follow_ups or FollowUps(load_encoder(STATIC_ENCODER))
        choose_turn = by_readings(self.selector.choose)
        self._conversations = Conversations(
            choose_turn if readings else lambda turn: self.selector.choose(turn.text),
            self.follow_ups.kind,
            self.selector.answers_in_sentences,
            DEFAULT_WORDS.is_interface_task,
            ConversationSettings(),
        )

    def choose(self, conversation: Conversation) -> Choice:
        return self._conversations.choose(conversation)


class AlwaysBase:
    """The rule that chooses the base model for every request."""

    name = "always base"

    def choose(self, conversation: Conversation) -> Choice:  # noqa: ARG002 (whatever it is)
        return Choice(None, 0.0, 0.0, self.name, ())


class ByDomain:
    """The rule that chooses the learnware whose material is nearest to the last turn's, whatever is asked, and never
    the base model: a choice by topic alone."""

    name = "by domain alone"

    def __init__(self, learnwares: Sequence[Learnware], encoder: RememberingEncoder) -> None:
        self._encoder = encoder
        self._ids = [one.id for one in learnwares]
        sets = [one.specified.whole_set.points for one in learnwares]
        self._owners = np.repeat(np.arange(len(sets)), [len(points) for points in sets])
        self._materials = _units(_materials(np.concatenate(sets).astype(np.float32)))

    def choose(self, conversation: Conversation) -> Choice:
        if not conversation.turns:
            return Choice(None, 0.0, 0.0, self.name, ())
        material = _units(_materials(self._encoder.encode([conversation.turns[-1]])))[0]
        nearest = int(self._owners[int((self._materials @ material).argmax())])
        return Choice(self._ids[nearest], 1.0, 0.0, self.name, ())


def _materials(vectors: Matrix) -> Matrix:
    return load_prompt_encoder().parts(vectors)[0]


def _units(vectors: Matrix) -> Matrix:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def with_parts_off(
    learnwares: Sequence[Learnware], encoder: RememberingEncoder, settings: SelectionSettings, follow_ups: FollowUps
) -> Iterator[OurRule]:
    """Yields the router's rule with one part after the other switched off."""

    def rule(name: str, learnwares: Sequence[Learnware] = learnwares, **changes: bool) -> OurRule:
        return OurRule(learnwares, encoder, settings, name, follow_ups, **changes)

    blind = [replace(one, specification=_changed(one.specified, without_ask)) for one in learnwares]
    with _home(_changed_home(load_home())):
        yield OurRule(blind, WithoutAsk(encoder), settings, "without the ask", follow_ups)
    undeclined = [replace(one, specification=replace(one.specified, declined=None)) for one in learnwares]
    yield rule("without declined points", undeclined)
    with mock.patch("router.task_model._other_asks", lambda _, home: home.sets[EVERYDAY]):
        yield rule("without any other asks")
    yield OurRule(learnwares, encoder, settings.model_copy(update={"min_match": 0.0}), "without min_match", follow_ups)
    yield rule("without the system prompt", readings=False)


def _changed(specification: Specification, change: Callable[[Matrix], Matrix]) -> Specification:
    views = tuple(replace(view, points=change(view.points)) for view in specification.views)
    declined = None if specification.declined is None else change(specification.declined)
    return replace(specification, views=views, declined=declined)


def _changed_home(home: Home) -> Home:
    sets = {name: ReducedSet(without_ask(one.points), one.weights) for name, one in home.sets.items()}
    return Home(sets, np.zeros_like(home.asks), home.instruction)


@contextmanager
def _home(home: Home) -> Iterator[None]:
    """Replaces the base model's home for selectors that are made within this context."""
    with mock.patch("router.selection.load_home", return_value=home):
        yield
