"""Weights in a pickle: real ones become safetensors, hostile ones run nothing."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from serving.sources import fetch, pickled, unpickle
from specs.errors import InvalidLearnware
from specs.market.intake import Limits
from tests.serving.sources.conftest import content

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow
NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.fixture
def source(files: dict[str, bytes], tmp_path: Path) -> Path:
    """An adapter as older PEFTs wrote it, without its weights."""
    folder = tmp_path / "colours"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(files["adapter_config.json"])
    return folder


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "legacy format"])
def test_a_real_pickle_becomes_safetensors(source: Path, target: Path, zipped: bool) -> None:
    from safetensors.torch import load_file

    shared = torch.arange(64, dtype=torch.bfloat16).reshape(8, 8)
    tensors = {NAME.format("A"): shared, NAME.format("B"): shared.t()[:, :4], "third": shared}
    torch.save(tensors, source / "adapter_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidLearnware, match=f"`learnware-serving learnware add {source} --convert-pickle`"):
        fetch(str(source), target, Limits())
    assert not target.exists() or content(target) == {}
    fetched = fetch(str(source), target, Limits(), convert_pickle=True)
    assert set(content(target)) == {"adapter_config.json", "adapter_model.safetensors"}
    assert fetched.notes == ("adapter_model.bin was converted to adapter_model.safetensors",)
    got = load_file(target / "adapter_model.safetensors")
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[name], value) and got[name].dtype == value.dtype for name, value in tensors.items())


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["plain pickle", "zip format"])
def test_a_hostile_pickle_runs_nothing(source: Path, target: Path, tmp_path: Path, form: str) -> None:
    trace = tmp_path / "trace"
    evil = {NAME.format("A"): Evil(f"touch {trace}")}
    if form == "plain pickle":
        (source / "adapter_model.bin").write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, source / "adapter_model.bin")
    with pytest.raises(InvalidLearnware, match="was not converted: it ") as caught:
        fetch(str(source), target, Limits(), convert_pickle=True)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    assert "adapter_model.safetensors" not in content(target)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"step": 3}, "such as 'step'"),
        ({3: torch.zeros(2)}, "such as '3'"),
        ([torch.zeros(2)], "no tensors by name"),
        ({}, "no tensors by name"),
        ({"a": torch.zeros(1).expand(1 << 20, 1 << 14)}, "its tensors hold more than 1 MiB"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is a sparse, quantised or empty"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is a sparse, quantised or empty"),
    ],
    ids=["number", "name", "list", "nothing", "repeated value", "sparse", "meta"],
)
def test_what_is_not_tensors_or_too_large_is_refused(value: Any, reason: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=reason):
        unpickle.write(unpickle.read(tmp_path / "adapter_model.bin"), tmp_path / "out", 1 << 20)
    assert not (tmp_path / "out").exists()


def test_the_process_gets_no_secrets_and_little_time(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    lines = ("import os, sys, time", "print('HF_TOKEN' in os.environ, file=sys.stderr)", "time.sleep(int(sys.argv[3]))")
    program.write_text("\n".join((*lines, "sys.exit(1)")))
    monkeypatch.setattr(pickled, "PROGRAM", program)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_tests")
    with pytest.raises(InvalidLearnware, match=r"was not converted: False$"):
        pickled.convert(source / "adapter_config.json", tmp_path / "out", Limits(bytes=0))
    monkeypatch.setattr(pickled, "TIME_LIMIT_S", 0.5)
    with pytest.raises(InvalidLearnware, match=r"takes more than 0.5 s"):
        pickled.convert(source / "adapter_config.json", tmp_path / "out", Limits(bytes=60))


def test_the_programs_memory_is_bounded(tmp_path: Path) -> None:
    """A file whose storage states more bytes than may be allocated."""
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.zeros(1 << 18)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in entries.items():
            archive.writestr(name, value[: len(value) // 2] if name.endswith("data/0") else value)
    with pytest.raises(InvalidLearnware, match="was not converted"):
        pickled.convert(path, tmp_path / "out", Limits())
