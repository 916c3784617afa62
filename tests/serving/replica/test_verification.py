"""Values that no market has checked are checked beside the requests."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from serving.replica.verification import without_wrong_values
from specs.market.catalogue import static_catalogue
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import variant


async def test_each_one_with_wrong_values_leaves_and_the_others_stay(tmp_path: Path):
    whole = write_learnware(tmp_path / "whole" / "a", "a")
    for name in ("b", "c", "d"):
        variant(whole, whole.parent / name, name)
    for name, value in (("b", np.nan), ("d", 0.0)):
        path = whole.parent / name / "adapter_model.safetensors"
        save_file({tensor: np.full_like(values, value) for tensor, values in load_file(path).items()}, path)
    catalogue = static_catalogue(whole.parent)
    assert [entry.id for entry in catalogue.entries] == ["a", "b", "c", "d"]
    states = [state async for state in without_wrong_values(catalogue)]
    assert [[entry.id for entry in state.entries] for state in states] == [["a", "c", "d"], ["a", "c"]]
    assert [state.unserved for state in states] == [{"broken": 1}, {"broken": 2}]
