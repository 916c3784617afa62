"""The models that are listed: each id once, and nothing that a request cannot name."""

from serving.replica.model_list import model_objects
from tests.specs.learnware_folder import card


def test_every_id_is_listed_once_a_canary_under_its_own() -> None:
    template = {"id": "vllm-says", "object": "model", "owned_by": "vllm", "root": "/a/path", "parent": None, "x": 1}
    name = card().id
    new = card(version=2)
    found = model_objects(template, "base-8b", ["auto", "best"], {name: card(), f"{name}@canary": new})
    assert [one["id"] for one in found] == ["auto", "best", "base-8b", name, f"{name}@canary"]
    assert all((one["object"], one["x"]) == ("model", 1) for one in found)
    assert [one["root"] for one in found] == ["base-8b"] * 3 + [name, f"{name}@canary"]
    assert [one["parent"] for one in found] == ["base-8b", "base-8b", None, "base-8b", "base-8b"]
    assert [one["owned_by"] for one in found] == ["learnware-serving"] * 2 + ["vllm"] + ["learnware-serving"] * 2
    current, canary = (one["learnware"] for one in found[3:])
    assert (current["version"], current["tasks"]) == (1, list(card().tasks))
    assert "canary_of" not in current
    assert (canary["version"], canary["canary_of"]) == (2, name)
