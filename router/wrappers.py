"""Tells the user's own words in a message from what programs put around them.

Agents, retrieval templates and chat front ends write into user messages: reminders, the state of an editor, results of
tools, summaries of a conversation that became too long, documents that were found. Routed on as they are, they drown
what the user asks. Front ends also ask for titles and tags of a conversation: the whole conversation then stands in the
prompt as material, and the ask is about something else.

Everything here takes time in proportion to the text, whatever the text is: tags are found in one pass, and patterns
look at a bounded piece of it.
"""

import re
from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from specs.routed_rows import SYSTEM_CHARS

OPENING_CHARS = 400
"""Characters from a message's beginning in which the openings of machine-made messages are looked for."""
EDGE_CHARS = 600
"""Characters of a turn's head and tail in which a front end's task is looked for: the instruction stands at one of the
ends."""
_NAME = re.compile(r"[A-Za-z_][\w.:-]{0,63}")
_TAG = re.compile(rf"<(/?)({_NAME.pattern})(?:\s[^<>]{{0,512}})?>")

_TITLE_OF_CHAT = (
    r"\b(?:generate|create|write|provide|suggest|give|propose|make|come up with)\b[^.\n]{0,80}"
    r"\b(?:titles?|tags?|emojis?|follow[- ]?ups?|next (?:questions|prompts|messages)|search quer(?:y|ies))\b"
    r"[^.\n]{0,120}\b(?:conversations?|chats?|chat history|discussions?|dialogues?|dialogs?)\b"
)
_SUMMARY_OF_CHAT = (
    r"(?:Here is|Here's|This is|Below is) (?:a|the) (?:\w+ )?summary of (?:the|our|this|my) "
    r"(?:previous |earlier )?(?:conversation|discussion|chat|session)"
)


class RequestSettings(BaseModel):
    """The parts of a request that are not the user's own words, on which no choice is made; the model gets the request
    as it is. Tags are names of XML-like elements, without regard to case; patterns are Python regular expressions
    without regard to case. A list that is given replaces the default's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wrapper_tags: tuple[str, ...] = Field(
        (
            "system-reminder",
            "system_reminder",
            "environment_details",
            "environment_context",
            "environment_info",
            "workspace_info",
            "user_info",
            "user_instructions",
            "user_memories",
            "project_layout",
            "git_status",
            "additional_data",
            "open_and_recently_viewed_files",
            "attached_files",
            "attachments",
            "editorContext",
            "reminderInstructions",
            "rules",
            "explicit_instructions",
            "ide_opened_file",
            "ide_selection",
            "ide_diagnostics",
            "command-name",
            "command-message",
            "command-args",
            "local-command-stdout",
            "local-command-stderr",
            "local-command-caveat",
            "bash-input",
            "bash-stdout",
            "bash-stderr",
            "task-notification",
            "tool_call",
            "tool_result",
            "tool_results",
            "tool_response",
            "tool_output",
            "tool_use_error",
            "function_results",
            "function_result",
            "conversation_summary",
            "conversation-summary",
            "conversation_history",
            "chat_history",
        ),
        description="Blocks of these tags do not count, nor does a message that has nothing else; where no message of "
        "the conversation is left, its last one counts whole.",
    )
    leading_tags: tuple[str, ...] = Field(
        ("summary",),
        description="As wrapper_tags where the message begins with the block, as material_tags elsewhere.",
    )
    material_tags: tuple[str, ...] = Field(
        (
            "context",
            "document",
            "documents",
            "document_content",
            "doc",
            "docs",
            "passage",
            "passages",
            "source",
            "sources",
            "search_results",
            "file",
            "file_content",
            "file_contents",
        ),
        description="Of each block of these tags the first material_chars characters count, so that it does not push "
        "the question out of sight; in a message that has nothing else it counts whole.",
    )
    material_chars: int = Field(
        600, ge=0, description="Characters that count of each block of material_tags; at 0 none do."
    )
    request_tags: tuple[str, ...] = Field(
        ("user_query", "user_request", "userRequest", "user_message", "user_question"),
        description="Where a message has such a block, it alone is what the user wrote; the last one counts.",
    )
    not_the_users: tuple[str, ...] = Field(
        (
            r"This session is being continued from a previous conversation",
            _SUMMARY_OF_CHAT,
            r"\W{0,4}(?:(?:Previous|Earlier) conversation|Conversation) (?:so far )?\(?summar",
            r"Another language model started to solve this problem",
            r"Caveat: The messages below were generated by the user while running local commands",
            r"\[Request interrupted by user",
            r"\[[a-z][\w-]{1,40}(?: for '[^'\n]{0,200}')?\] Result:",
            r"\W{0,2}Tool (?:results?|outputs?|responses?)\b[^\n]{0,80}:",
        ),
        description="Messages that begin so are a program's and do not count: results of tools, summaries after a "
        f"conversation was compacted. Matched at the beginning, within {OPENING_CHARS} characters.",
    )
    interface_tasks: tuple[str, ...] = Field(
        (
            _TITLE_OF_CHAT,
            r"\b(?:title|name)s? (?:for|of) (?:this|the|our|a) (?:conversation|chat|discussion|dialogue)\b",
            r"\b(?:conversation|chat|thread) (?:title|name|tag)s?\b",
            r"### Task:\s{0,8}(?:Analyze the chat history|You are an autocompletion)",
            r"### Task:\s{0,8}Generate a detailed prompt[^\n]{0,80}\bimage generation\b",
            r"\bsummari[sz]e (?:the|our|this) (?:conversation|discussion|chat)\b[^\n]{0,80}\bprompt\b",
            r"\bsummari[sz]e the user's (?:request|message|question)\b[^\n]{0,80}\bwords\b",
            r"\bmessage indicates a new conversation topic\b",
            r"(?:会话|对话|聊天)[^。\n]{0,40}(?:标题|标签)|(?:标题|标签)[^。\n]{0,40}(?:会话|对话|聊天)",
        ),
        description="Asks of chat front ends for themselves, such as a title of the conversation: the base model "
        f"answers. Looked for in the first and last {EDGE_CHARS} characters of the turn and in the system prompt.",
    )
    interface_words: tuple[str, ...] = Field(
        (
            "conversation",
            "chat",
            "discussion",
            "dialog",
            "user's request",
            "user's message",
            "user's question",
            "autocompletion",
            "image generation",
            "会话",
            "对话",
            "聊天",
        ),
        description="Every text that interface_tasks are to find has one of these words; looking for them first takes "
        "a hundredth of the time. Empty: the patterns are always tried.",
    )

    @model_validator(mode="after")
    def _can_be_applied(self) -> Self:
        for name in ("wrapper_tags", "leading_tags", "material_tags", "request_tags"):
            for tag in getattr(self, name):
                if not _NAME.fullmatch(tag):
                    raise ValueError(f"{name}: {tag!r} is no element's name, such as system-reminder")
        for name in ("not_the_users", "interface_tasks"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{name}: {pattern!r} is no regular expression: {error}") from None
        return self


class OwnWords:
    """Tells the user's own words by the settings. Immutable; safe to use from several threads."""

    def __init__(self, settings: RequestSettings) -> None:
        self.settings = settings
        self._wrapper = _lower(settings.wrapper_tags)
        self._leading = _lower(settings.leading_tags)
        self._request = _lower(settings.request_tags)
        self._removed = self._wrapper | self._leading | _lower(settings.material_tags)
        self._openings = _any_of(settings.not_the_users)
        self._words = tuple(word.lower() for word in settings.interface_words)
        self._tasks = _any_of(settings.interface_tasks)

    def of(self, message: str) -> str:
        """Returns the user's own words of a message; empty when all of it is a program's."""
        text = message.strip()
        if self._openings is not None and self._openings.match(text[:OPENING_CHARS]):
            return ""
        if "</" not in text:
            return text
        if requests := _blocks(text, self._request):
            _, start, end = max(requests, key=lambda block: block[2])
            text = text[text.index(">", start) + 1 : text.rindex("<", start, end)].strip()
        return self._without_blocks(text)

    def is_interface_task(self, text: str, system: str = "") -> bool:
        """Whether a chat front end asks this for itself."""
        if self._tasks is None:
            return False
        # a long turn's tail does not begin before its head ends
        for piece in (text[:EDGE_CHARS], text[max(EDGE_CHARS, len(text) - EDGE_CHARS) :], system):
            lower = piece.lower()
            worded = not self._words or any(word in lower for word in self._words)
            if worded and self._tasks.search(piece):
                return True
        return False

    def of_system(self, system: str) -> str:
        """Returns the part of a system prompt that is routed on: all of it, or its ends."""
        text = self.of(system) or system.strip()
        return text if len(text) <= 2 * SYSTEM_CHARS else f"{text[:SYSTEM_CHARS]}\n{text[-SYSTEM_CHARS:]}"

    def _without_blocks(self, text: str) -> str:
        """Returns the text without wrappers, and with the head only of long material."""
        kept: list[str] = []
        said = False  # anything outside of blocks
        position = 0
        for tag, start, end in _blocks(text, self._removed):
            if start < position:
                continue  # inside of a block that was dealt with
            between = text[position:start]
            kept.append(between)
            said = said or bool(between.strip())
            if tag not in self._wrapper and (said or tag not in self._leading):
                kept.append(text[start : min(end, start + len(tag) + 2 + self.settings.material_chars)])
            position = end
        kept.append(text[position:])
        own = "".join(kept).strip()
        # a message that is nothing but material is what the user has to say
        return own if said or text[position:].strip() or not own else text


def _blocks(text: str, tags: frozenset[str]) -> list[tuple[str, int, int]]:
    """Returns (tag, start, end) of every element of these tags that is closed, outer ones before those inside them."""
    opened: dict[str, list[int]] = {}
    found: list[tuple[str, int, int]] = []
    for match in _TAG.finditer(text):
        tag = match[2].lower()
        if tag not in tags:
            continue
        if not match[1]:
            opened.setdefault(tag, []).append(match.start())
        elif opened.get(tag):
            found.append((tag, opened[tag].pop(), match.end()))
    return sorted(found, key=lambda block: (block[1], -block[2]))


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE) if patterns else None


def _lower(tags: Sequence[str]) -> frozenset[str]:
    return frozenset(tag.lower() for tag in tags)
