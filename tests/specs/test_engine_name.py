"""The engine's names for versions of learnwares."""

import pytest

from specs.engine_name import engine_name, split_engine_name


@pytest.mark.parametrize("learnware_id", ["a", "finance-fiqa_sa", "a.b-c", "acme/tfns", "a.b/c_d-e"])
def test_a_name_is_taken_apart_into_what_it_was_made_of(learnware_id: str):
    name = engine_name(learnware_id, "0123456789abcdef" * 4)
    assert name == f"{learnware_id}@0123456789ab"
    assert split_engine_name(name) == (learnware_id, "0123456789ab")


def test_two_versions_have_two_names():
    assert engine_name("a", "1" * 64) != engine_name("a", "2" * 64)


def test_a_name_without_a_version_is_an_id():
    assert split_engine_name("SmolLM2-135M-Instruct") == ("SmolLM2-135M-Instruct", "")
