"""The configuration file: defaults, refusals and their messages."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from serving.config import Config, load_config
from serving.paths import STARTER_FOLDER
from specs.errors import InvalidConfig


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_the_defaults_are_the_embedded_base_and_the_starter_learnwares_on_loopback():
    config = load_config(None)
    assert config == Config()
    assert config.http.host == "127.0.0.1"
    assert config.base_model.served_id == "SmolLM2-135M-Instruct"
    assert config.learnwares.path == STARTER_FOLDER


def test_an_empty_file_is_the_defaults_and_overrides_lie_over_the_file(tmp_path):
    assert load_config(write(tmp_path, "")) == Config()
    path = write(tmp_path, "http: {port: 9000, host: 127.0.0.2}\n")
    config = load_config(path, {"http": {"port": 9100}})
    assert (config.http.port, config.http.host) == (9100, "127.0.0.2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engin: {}", "unknown key engin; did you mean engine?"),
        ("engine: {slotz: 4}", "unknown key engine.slotz; did you mean engine.slots?"),
        ("router: {conversation: {switch_margins: 1}}", "did you mean router.conversation.switch_margin?"),
        ("http: {zzz: 1}", "valid here: host, port"),
        ("http: {port: 70000}", "http.port: Input should be less than or equal to 65535"),
        ("engine: {host_adapter_mib: 0}", "engine.host_adapter_mib: Input should be greater than 0"),
        ("engine: {max_rank: 12}", "engine.max_rank"),
        ("router: {auto_names: [SmolLM2-135M-Instruct]}", "must not hold the base model's id"),
        ("router: {max_wait_ms: 1400}", "max_wait_ms (1400) and deadline_ms (500) together must be at most 1500"),
        ("router: {on_overload: wait}", "router.on_overload: Input should be 'refuse' or 'base'"),
        ("feedback: {learn: true}", "feedback.learn needs market.path: the folder in which what is learnt is kept"),
        (
            "{feedback: {learn: true}, market: {path: here}, decisions: {vectors: false}}",
            "feedback.learn needs decisions.enabled and decisions.vectors",
        ),
        ("shadow: {share: 0.2}\ndecisions: {enabled: false}", "shadow.share needs decisions.enabled"),
        ("shadow: {share: 0.2}\nengine: {scheduling: stock}", "shadow.share needs engine.scheduling: paged"),
        ("shadow: {share: 1.5}", "shadow.share: Input should be less than or equal to 1"),
        (
            "shadow: {judge: {url: judge, model: m}}",
            "must be the URL of an OpenAI-compatible endpoint, which begins with http:// or https://",
        ),
        ("shadow: {judge: {url: 'http://judge/v1'}}", "shadow.judge.model: Field required"),
        ("shadow: {judge: {url: 'http://judge/v1?key=1', model: m}}", "endpoint without a query"),
        ("shadow: {judge: {uri: 'http://judge/v1'}}", "unknown key shadow.judge.uri; did you mean shadow.judge.url?"),
        ("- a list", "must hold a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InvalidConfig) as refused:
        load_config(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_with_a_market_that_is_kept_a_stack_may_learn(tmp_path):
    assert load_config(write(tmp_path, "{feedback: {learn: true}, market: {path: here}}")).feedback.learn


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InvalidConfig, match="No such file"):
        load_config(tmp_path / "none.yaml")


def test_it_is_frozen():
    with pytest.raises(Exception, match="frozen"):
        Config().http.port = 1  # type: ignore[misc]


def test_the_base_model_is_served_under_its_folders_name(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert load_config(None, {"base_model": {"source": str(folder)}}).base_model.served_id == "my-model"
    assert load_config(None, {"base_model": {"source": "org/model"}}).base_model.served_id == "org/model"


def test_it_survives_a_round_trip_through_yaml(tmp_path):
    dumped = yaml.safe_dump(Config().model_dump(mode="json"))
    assert load_config(write(tmp_path, dumped)) == Config()


@pytest.mark.parametrize("gib", [0.5, 1.5, 0])
def test_a_kv_cache_that_vllm_would_not_read_is_refused_before_a_start(gib: float) -> None:
    """vLLM 0.29 reads VLLM_CPU_KVCACHE_SPACE as a whole number."""
    with pytest.raises(ValidationError, match="kv_cache_gib"):
        Config.model_validate({"engine": {"kv_cache_gib": gib}})
    assert Config.model_validate({"engine": {"kv_cache_gib": 4}}).engine.kv_cache_gib == 4
