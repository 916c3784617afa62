"""Which rows of the chat task are a domain's questions."""

import json

import pytest

from benchmarks.common.tasks import CHAT, DOMAINS, QUESTIONS, chat_domain, data_folder, read_prompts

LABELS = json.loads((QUESTIONS / "general_chat_domains.json").read_text(encoding="utf-8"))


def test_labels_are_domains_under_short_hashes() -> None:
    assert set(LABELS.values()) == set(DOMAINS)
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in LABELS)


def test_a_prompt_that_is_no_row_has_no_domain() -> None:
    assert chat_domain("What is a good name for a goldfish in a novel?") is None


def test_every_label_is_a_row_s() -> None:
    data = data_folder()
    if data is None:
        pytest.skip("the tasks' rows are not here: set LEARNWARE_DATA to their folder")
    rows = {split: read_prompts(data, CHAT, split).whole for split in ("train", "test")}
    labelled = {split: [domain for row in whole if (domain := chat_domain(row))] for split, whole in rows.items()}
    assert len({row for whole in rows.values() for row in whole if chat_domain(row)}) == len(LABELS)
    assert all(set(found) == set(DOMAINS) for found in labelled.values())
