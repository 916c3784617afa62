"""The keyring: whose key a request has, and that the file is followed while the process runs."""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest

from serving.access.keyring import (
    ADMIN_KEY_VARIABLE,
    API_KEYS_VARIABLE,
    Keyring,
    admin_key_of,
    configured_keyring,
    digest_of,
    keys_required,
    static_keys,
)
from serving.access.tenant import ANONYMOUS, Tenant
from serving.config import Config, load_config
from specs.errors import InvalidConfig, Unauthorized

STATIC = [(digest_of("static-key"), Tenant("static"))]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def no_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEYS_VARIABLE, raising=False)
    monkeypatch.delenv(ADMIN_KEY_VARIABLE, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def write(path: Path, **keys: str | dict[str, Any]) -> None:
    """Writes a key file: the key by its tenant's name, or by the name and a number after two underscores."""
    entries = [
        {"name": name.partition("__")[0], **({"sha256": digest_of(key)} if isinstance(key, str) else key)}
        for name, key in keys.items()
    ]
    path.write_text(json.dumps({"format": 1, "keys": entries}))


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {key}".encode())]


def test_without_keys_everybody_is_one_tenant_but_the_admin() -> None:
    keyring = Keyring(admin_key="secret")
    assert not keyring.required
    assert keyring.tenant() is ANONYMOUS
    assert keyring.tenant("Bearer whatever", "x") is ANONYMOUS
    admin = keyring.tenant("Bearer secret")
    assert (admin.name, admin.admin, admin.metrics, admin.requests_per_minute) == ("admin", True, True, None)
    assert Keyring().tenant("Bearer secret") is ANONYMOUS


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ([(b"authorization", b"Bearer static-key")], True),
        ([(b"authorization", b"bearer static-key")], True),
        ([(b"authorization", b"BEARER   static-key  ")], True),
        ([(b"authorization", b"  Bearer static-key")], True),
        ([(b"x-api-key", b"static-key")], True),
        ([(b"x-api-key", b" static-key\t")], True),
        ([(b"authorization", b"Basic c3RhdGlj"), (b"x-api-key", b"static-key")], True),
        ([(b"authorization", b"Bearer wrong"), (b"x-api-key", b"static-key")], True),
        ([], False),
        ([(b"authorization", b"static-key")], False),
        ([(b"authorization", b"Bearer")], False),
        ([(b"authorization", b"Bearer ")], False),
        ([(b"authorization", b"")], False),
        ([(b"x-api-key", b"")], False),
        ([(b"x-api-key", b"  ")], False),
        ([(b"authorization", b"Bearer static-key, Bearer static-key")], False),
        ([(b"authorization", b"Bearer static-key x")], False),
        ([(b"authorization", b"Bearer static-ke")], False),
        ([(b"authorization", b"Bearer \xff\xfe\x00")], False),
        ([(b"authorization", b"Basic static-key")], False),
        ([(b"x-api-key", b"Bearer static-key")], False),
        ([(b"authorization", b"Bearer static-key"), (b"authorization", b"Bearer static-key")], False),
        ([(b"authorization", b"Bearer static-key"), (b"authorization", b"Bearer wrong")], False),
        ([(b"x-api-key", b"static-key"), (b"x-api-key", b"wrong")], False),
        ([(b"authorization", b"Bearer " + digest_of("static-key").encode())], False),
    ],
)
def test_a_key_is_read_from_either_header_and_from_nothing_else(
    headers: list[tuple[bytes, bytes]], known: bool
) -> None:
    keyring = Keyring(None, STATIC)
    assert keyring.required
    if known:
        assert keyring.tenant_of(headers).name == "static"
    else:
        with pytest.raises(Unauthorized):
            keyring.tenant_of(headers)


def test_no_key_is_the_empty_text() -> None:
    keyring = Keyring(None, [(digest_of(""), Tenant("nobody"))], "")
    for headers in ([], [(b"authorization", b"Bearer ")], [(b"x-api-key", b"")]):
        with pytest.raises(Unauthorized):
            keyring.tenant_of(headers)


def test_a_key_beyond_ascii_is_what_its_bytes_are() -> None:
    keyring = Keyring(None, [(digest_of("schlüssel-ключ"), Tenant("static"))], "größe")
    assert keyring.tenant_of(bearer("schlüssel-ключ")).name == "static"
    assert keyring.tenant(None, "schlüssel-ключ").name == "static"
    assert keyring.tenant_of(bearer("größe")).admin


def test_two_keys_of_one_name_are_one_tenant_and_either_can_go(path: Path) -> None:
    clock = Clock()
    old = {"sha256": digest_of("old"), "max_tokens": 5}
    new = {"sha256": digest_of("new"), "max_tokens": 9}
    write(path, alice__1=old, bob="other", alice__2=new)
    keyring = Keyring(path, STATIC, clock=clock)
    assert keyring.tenant_of(bearer("old")) == keyring.tenant_of(bearer("new")) == Tenant("alice", max_tokens=9)
    write(path, bob="other", alice=new)
    clock.now += 1.5
    assert keyring.tenant_of(bearer("new")).name == "alice"
    with pytest.raises(Unauthorized):
        keyring.tenant_of(bearer("old"))
    assert keyring.tenant_of(bearer("static-key")).name == "static"


def test_the_file_is_looked_at_once_a_second(path: Path) -> None:
    clock = Clock()
    write(path, alice="one")
    keyring = Keyring(path, clock=clock)
    assert keyring.tenant_of(bearer("one")).name == "alice"
    write(path, bob="three")
    clock.now = 0.9
    assert keyring.tenant_of(bearer("one")).name == "alice"
    clock.now = 1.0
    assert keyring.tenant_of(bearer("three")).name == "bob"
    with pytest.raises(Unauthorized):
        keyring.tenant_of(bearer("one"))


def test_revoking_the_last_key_opens_nothing(path: Path) -> None:
    clock = Clock()
    write(path, alice="one")
    keyring = Keyring(path, clock=clock)
    assert keyring.tenant_of(bearer("one")).name == "alice"
    write(path)
    clock.now = 2
    assert keyring.required
    for headers in (bearer("one"), []):
        with pytest.raises(Unauthorized):
            keyring.tenant_of(headers)


@pytest.mark.parametrize("harm", ["break", "remove"])
def test_a_broken_file_keeps_the_last_good_state_and_is_told_once(
    path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    write(path, alice="one")
    keyring = Keyring(path, clock=clock)
    keyring.tenant_of(bearer("one"))
    if harm == "break":
        path.write_text('{"format": 1, "keys": [')
    else:
        path.unlink()
    with caplog.at_level(logging.ERROR, "ray.serve"):
        for second in range(2, 6):
            clock.now = second
            assert keyring.tenant_of(bearer("one")).name == "alice"
            with pytest.raises(Unauthorized):
                keyring.tenant_of(bearer("two"))
    assert len(caplog.records) == 1
    write(path, bob="two")
    clock.now = 10
    assert keyring.tenant_of(bearer("two")).name == "bob"


@pytest.mark.parametrize("content", [None, "{"], ids=["missing", "broken"])
def test_a_file_that_never_was_good_lets_only_static_keys_in(path: Path, content: str | None) -> None:
    if content is not None:
        path.write_text(content)
    keyring = Keyring(path, STATIC, "secret")
    assert keyring.tenant_of(bearer("static-key")).name == "static"
    assert keyring.tenant_of(bearer("secret")).admin
    for headers in ([], bearer("x")):
        with pytest.raises(Unauthorized):
            keyring.tenant_of(headers)


def test_a_key_of_the_file_cannot_be_the_admins(path: Path) -> None:
    write(path, alice="secret")
    assert Keyring(path, admin_key="secret").tenant_of(bearer("secret")).admin


def test_a_keyring_can_be_sent_to_another_process(path: Path) -> None:
    write(path, alice="one")
    sent = pickle.loads(pickle.dumps(Keyring(path, STATIC, "secret", defaults={"max_tokens": 3})))
    assert sent.tenant_of(bearer("one")) == Tenant("alice", max_tokens=3)
    assert sent.tenant_of(bearer("static-key")).name == "static"


def test_keys_come_from_file_configuration_and_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, filed="one")
    monkeypatch.setenv(API_KEYS_VARIABLE, " env:two, three ,")
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "secret")
    limits = {"requests_per_minute": 60}
    config = load_config(None, {"keys": {"file": str(path)}, "api_keys": ["four", "own:five"], "limits": limits})
    keyring = configured_keyring(config)
    names = {key: keyring.tenant_of(bearer(key)).name for key in ("one", "two", "four", "five", "three", "secret")}
    assert names == {
        "one": "filed",
        "two": "env",
        "three": f"key-{digest_of('three')[:8]}",
        "four": f"key-{digest_of('four')[:8]}",
        "five": "own",
        "secret": "admin",
    }
    assert {keyring.tenant_of(bearer(key)).requests_per_minute for key in ("one", "two", "four")} == {60}
    assert keyring.tenant_of(bearer("secret")).requests_per_minute is None
    assert keys_required(config)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("admin:hidden", "the name admin is reserved"),
        ("a b:hidden", "a name must have"),
        (":hidden", "a name must have"),
        ("alice:", "key 1 of LEARNWARE_API_KEYS is empty"),
        ("alice:hid den", "blanks"),
        ("fine:x,alice:hid\tden", "key 2 of LEARNWARE_API_KEYS holds blanks"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_without_itself(
    monkeypatch: pytest.MonkeyPatch, keys: str, said: str
) -> None:
    monkeypatch.setenv(API_KEYS_VARIABLE, keys)
    with pytest.raises(InvalidConfig, match=said) as refused:
        configured_keyring(Config())
    assert "hid" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "two words", "alice:", "a/b:c"])
def test_the_configuration_refuses_a_key_that_cannot_be_used(key: str) -> None:
    with pytest.raises(InvalidConfig, match="api_keys: key 1 of api_keys"):
        load_config(None, {"api_keys": [key]})


def test_a_broken_key_file_costs_the_start(path: Path) -> None:
    config = load_config(None, {"keys": {"file": str(path)}})
    assert configured_keyring(config).required  # a missing one may come
    path.write_text("[]")
    with pytest.raises(InvalidConfig, match="cannot be used"):
        configured_keyring(config)


def test_the_edge_gets_digests_and_never_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert static_keys(Config()) == ()
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "secret")
    monkeypatch.setenv(API_KEYS_VARIABLE, "env:two")
    config = load_config(None, {"api_keys": ["own:five"]})
    own, env, admin = static_keys(config)
    assert (own, env) == (
        {"name": "own", "sha256": digest_of("five")},
        {"name": "env", "sha256": digest_of("two")},
    )
    assert (admin["name"], admin["sha256"], admin["opens"]) == ("admin", digest_of("secret"), False)
    assert admin["requests_per_minute"] is None
    assert admin["concurrent_requests"] is None
    assert keys_required(Config())
    monkeypatch.delenv(API_KEYS_VARIABLE)
    assert not keys_required(Config())  # the admin key alone makes nobody else need one


def test_the_admin_key_is_the_configurations_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert admin_key_of(Config()) is None
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "of the environment")
    assert admin_key_of(Config()) == "of the environment"
    assert admin_key_of(load_config(None, {"market": {"admin_key": "own"}})) == "own"
