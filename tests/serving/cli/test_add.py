"""`learnware-serving learnware add`: from an adapter as PEFT wrote it to a learnware of a stack, market or folder."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from safetensors.numpy import save_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from serving import base_model
from serving.access.keyring import Keyring
from serving.applications.access import Access
from serving.applications.market import MarketAPI
from serving.cli.main import main
from serving.launch import local_key
from specs.learnware import load_learnware
from specs.market.catalogue import read_catalogue
from specs.market.store import Market, Staged
from specs.market.trial import Trial
from specs.off_task import Kind, OffTaskScore
from tests.specs.learnware_folder import BASE, PROMPTS, adapter_config, adapter_tensors, write_learnware
from tests.specs.market.support import requirements

KEY = "stack-key"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """What PEFT and a Trainer leave: an adapter without card or specification."""
    folder = tmp_path / "My colours (v2)"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config()))
    save_file(adapter_tensors(), folder / "adapter_model.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-4.0\nlanguage: [en, nl]\n---\n<!-- note -->\n# Colours\n\nTells the *colour* of [things](http://x).\n"
    )
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "red"}]})
            + "\n"
            for prompt in PROMPTS
        )
    )
    return path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of the tiny base, whose port nothing listens on."""
    requirements(tmp_path / "base")
    monkeypatch.setattr(base_model, "ensure_base_model", lambda *_: tmp_path / "base")
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"base_model": {"id": BASE}, "http": {"port": 18999}, "engine": {"max_rank": 8}}))
    return path


def add(*arguments: object) -> int:
    return main(["learnware", "add", *map(str, arguments)])


class Stack:
    """A market over HTTP whose engine and router are played here."""

    def __init__(self, root: Path, needed: Any) -> None:
        self.market = Market(root, needed)
        self.tried: list[Staged] = []
        self.routed: list[str] = []
        self.refusal: str | None = None
        self.choice: str | None = None
        self.keys: set[str | None] = set()
        self.url = ""

    async def probe(self, staged: Staged) -> Trial:
        self.tried.append(staged)
        return Trial(self.refusal, {} if self.refusal else {kind: OffTaskScore(400, 0.0, 0.0, 0) for kind in Kind})

    async def follow(self, sequence: int) -> bool:
        return sequence == read_catalogue(self.market.root).sequence

    async def models(self, request: Request) -> JSONResponse:
        self.keys.add(request.headers.get("authorization"))
        auto = {"id": "auto", "parent": BASE, "owned_by": "learnware-serving"}
        return JSONResponse({"data": [auto, {"id": BASE, "parent": None, "owned_by": "vllm"}]})

    async def route(self, request: Request) -> JSONResponse:
        self.routed.append((await request.json())["messages"][-1]["content"])
        return JSONResponse({"learnware": self.choice})

    def application(self) -> Starlette:
        api = MarketAPI(self.market, Access(Keyring(admin_key=KEY)), 1 << 20, self.probe, self.follow).application()
        return Starlette(
            routes=[Route("/v1/models", self.models), Route("/v1/route", self.route, methods=["POST"]), Mount("/", api)]
        )


@pytest.fixture
def stack(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """The stack that runs on the configuration's port, with its own key in its run folder."""
    made = Stack(tmp_path / "market", requirements(tmp_path / "base"))
    server = uvicorn.Server(uvicorn.Config(made.application(), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    made.url = f"http://127.0.0.1:{port}"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"http": {"port": port}}))
    monkeypatch.setattr(local_key, "admin_key", lambda _: KEY)
    yield made
    server.should_exit = True
    thread.join(10)


@pytest.mark.slow
def test_an_adapter_with_rows_becomes_a_learnware_of_the_running_stack(
    stack: Stack, adapter: Path, rows: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.choice = "My-colours-v2"
    assert add(adapter, "--rows", rows, "--config", config, "--domain", "colours", "--task", "objects") == 0
    said = capsys.readouterr().out
    assert "left out, since nothing reads it: tokenizer.json" in said
    assert "My-colours-v2, version 1, is served" in said
    assert "off its task: it keeps the base model" in said
    assert "`auto` chooses it for 8 of 8 of the rows" in said
    assert f"curl -s {stack.url}/v1/chat/completions" in said
    assert '"model": "My-colours-v2"' in said
    (record,) = stack.market.records()
    card = record.card
    assert card is not None
    assert (card.id, card.domain, card.tasks, card.licence) == ("My-colours-v2", "colours", ("objects",), "cc-by-4.0")
    assert (card.languages, card.base_model.id, card.examples) == (("en", "nl"), BASE, ())
    assert card.description == "Tells the *colour* of things."
    learnware = load_learnware(stack.market.folder(record) or Path())
    assert [(view.name, view.rows) for view in learnware.specified.views] == [("whole", 30), ("asked", 40)]
    assert str(learnware.specified.answers).startswith("span, 1 to 1 words")
    assert learnware.specified.declined is not None
    assert learnware.capability is not None  # measured by the stack
    assert set(stack.routed) <= set(PROMPTS)
    assert len(set(stack.routed)) == 8


def test_a_served_id_is_replaced_by_a_higher_version_when_it_is_said(
    stack: Stack, adapter: Path, rows: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(adapter, "--id", "mine", "--config", config, "--examples", "Which colour?") == 0
    assert add(adapter, "--id", "mine", "--config", config, "--rows", rows) == 1
    assert "learnware 'mine' is served already, in version 1: give --replace" in capsys.readouterr().err
    assert add(adapter, "--id", "mine", "--config", config, "--rows", rows, "--replace") == 0
    assert "mine, version 2, is served" in capsys.readouterr().out
    stack.market.remove("mine")
    assert add(adapter, "--id", "mine", "--config", config) == 0
    assert "mine, version 3, is served" in capsys.readouterr().out


def test_a_new_version_of_a_served_id_gets_a_share_as_its_canary(
    stack: Stack, adapter: Path, rows: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = (adapter, "--id", "mine", "--config", config, "--examples", "Which colour?", "--canary", "5%")
    assert add(*canary) == 1
    assert "no learnware 'mine' is served that a canary could be compared with" in capsys.readouterr().err
    assert add(*canary[:-2]) == 0
    assert add(*canary, "--out", tmp_path / "out") == 1
    assert "give --canary without --out" in capsys.readouterr().err
    for version in (2, 3):
        capsys.readouterr()
        assert add(*canary) == 0
        said = capsys.readouterr().out
        assert f"mine@canary, version {version}, is served" in said
        assert "It gets 5 % of the requests for which mine is chosen, until `market promote mine`" in said
        (record,) = stack.market.canaries()
        assert (record.version, record.share, stack.market.active("mine").version) == (version, 0.05, 1)
        stack.market.roll_back("mine", "worse")
    assert len(stack.tried) == 3
    assert add(adapter, "--id", "mine", "--config", config, "--rows", rows) == 1
    assert "--canary 5% to give it some of its requests at first" in capsys.readouterr().err


def test_with_neither_rows_nor_examples_it_answers_to_its_name_only(
    stack: Stack, adapter: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(adapter, "--id", "nameless", "--config", config) == 0
    said = capsys.readouterr().out
    assert "requests reach it by its name (nameless) and `auto` never chooses it" in said
    assert stack.routed == []
    (record,) = stack.market.records()
    assert load_learnware(stack.market.folder(record) or Path()).specification is None


def test_what_the_stack_refuses_is_said_as_the_stack_says_it(
    stack: Stack, adapter: Path, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.refusal = "on the engine its answers are not finite numbers"
    assert add(adapter, "--id", "broken", "--config", config) == 1
    assert "learnware broken: on the engine its answers are not finite numbers" in capsys.readouterr().err
    monkeypatch.setattr(local_key, "admin_key", lambda _: None)
    assert add(adapter, "--id", "mine", "--config", config) == 1
    assert "Changes need the admin key" in (said := capsys.readouterr().err)
    assert said.endswith("; give it with --key or LEARNWARE_ADMIN_KEY\n")


def test_a_named_stack_gets_the_given_key_and_no_row(
    stack: Stack, adapter: Path, rows: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_key, "admin_key", lambda _: "of this machine")
    assert add(adapter, "--rows", rows, "--config", config, "--url", f"{stack.url}/v1", "--key", KEY) == 0
    assert stack.keys == {f"Bearer {KEY}"}
    assert stack.routed == []


def test_without_a_stack_it_goes_to_the_configured_market(
    adapter: Path, rows: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | {"market": {"path": str(tmp_path / "kept")}}))
    command = (adapter, "--rows", rows, "--config", config, "--id", "mine")
    assert add(*command) == 0
    assert "No engine has tried it, and it was not measured" in capsys.readouterr().out
    assert add(*command) == 1
    assert add(*command, "--replace") == 0
    (record,) = Market(tmp_path / "kept").records()
    assert (record.id, record.version) == ("mine", 2)
    assert add(*command, "--canary", "0.2") == 0
    assert "It gets 20 % of the requests for which mine is chosen" in capsys.readouterr().out
    Market(tmp_path / "kept").roll_back("mine", "worse")
    assert add(*command, "--replace") == 0
    assert Market(tmp_path / "kept").active("mine").version == 4


def test_with_neither_stack_nor_market_it_says_what_to_give_before_it_fetches(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(tmp_path / "nowhere", "--config", config) == 1
    assert "no stack runs on port 18999, and market.path is not set: start one" in capsys.readouterr().err
    assert add(tmp_path / "nowhere", "--config", config, "--market", tmp_path / "mistyped") == 1
    assert "there is no market in" in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists()
    assert add(tmp_path / "nowhere", "--config", config, "--url", "http://127.0.0.1:18999") == 1
    assert "no stack of this project answers at http://127.0.0.1:18999" in capsys.readouterr().err


def test_a_folder_of_the_callers_is_a_whole_learnware(
    adapter: Path, rows: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    examples = ("--publish-examples", 3)
    assert add(adapter, "--rows", rows, "--config", config, "--out", out, "--id", "mine", *examples) == 0
    assert "every check that needs no engine passed" in capsys.readouterr().out
    learnware = load_learnware(out, base_model=BASE)
    assert [(view.name, view.rows) for view in learnware.specified.views] == [
        ("whole", 30),
        ("examples", 3),
        ("asked", 120),
    ]
    assert add(adapter, "--config", config, "--out", out) == 1
    assert "is not empty" in capsys.readouterr().err


def test_a_dry_run_finds_what_is_wrong_and_changes_nothing(
    adapter: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(adapter, "--config", config, "--dry-run") == 0
    save_file(adapter_tensors(16), adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(adapter_config(r=16)))
    assert add(adapter, "--config", config, "--dry-run") == 1
    assert "its rank is 16" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["My colours (v2)", "base", "config.yaml"]


def test_what_is_wrong_with_an_adapter_is_said_of_the_source_by_its_name(
    adapter: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps(adapter_config() | {"use_dora": True}))
    assert add(adapter, "--config", config, "--dry-run") == 1
    assert "learnware My_colours__v2_: adapter_config.json: use_dora" in capsys.readouterr().err


def test_a_card_and_a_specification_that_are_there_are_kept_and_options_win(config: Path, tmp_path: Path) -> None:
    whole, out = write_learnware(tmp_path / "whole"), tmp_path / "out"
    assert add(whole, "--config", config, "--out", out, "--name", "Better name", "--version", 7) == 0
    before, after = load_learnware(whole), load_learnware(out)
    assert (after.id, after.name, after.version, after.domain) == ("colours-objects", "Better name", 7, "colours")
    assert (after.specified.whole_set.points == before.specified.whole_set.points).all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--id", "no id"], "the card cannot have id 'no id': 'no id' is no learnware's id"),
        (["--examples", " "], "an example of --examples is empty"),
        (["--rows", "nowhere.jsonl"], "the rows nowhere.jsonl cannot be read"),
    ],
)
def test_unusable_options_are_named(
    adapter: Path, config: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(adapter, "--config", config, "--dry-run", *arguments) == 1
    assert reason in capsys.readouterr().err
