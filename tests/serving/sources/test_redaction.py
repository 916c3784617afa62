"""What may be secret, in every place where it stood."""

import logging

import pytest

from serving.sources.redaction import quiet_clients, redact

SOURCE = "https://me:p%40ss-word@host/a.zip?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&sig=0123456789%2F"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"cannot get {SOURCE} in time", "cannot get https://host/a.zip?… in time"),
        ("the key p@ss-word or p%40ss-word", "the key … or …"),
        ("the signature 0123456789/ differs", "the signature … differs"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer …"),
        ("hf_abcdefghijklmnop is not known, AKIAIOSFODNN7EXAMPLE neither", "… is not known, … neither"),
        ("GET 'http://x/y?token=1' and http://u@z/", "GET 'http://x/y?…' and http://z/"),
        ("the environment's my-very-own-secret", "the environment's …"),
        ("nothing: user@host, a question?", "nothing: user@host, a question?"),
    ],
)
def test_secrets_are_left_out(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "my-very-own-secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    assert redact(text, SOURCE) == shown


def test_clients_write_no_log_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("botocore.auth").setLevel(logging.DEBUG)
    try:
        with quiet_clients():
            logging.getLogger("httpx").error("secret")
            logging.getLogger("botocore.auth").debug("secret")
            logging.getLogger("httpcore.made.meanwhile").info("secret")
            logging.getLogger("serving").info("plain")
        logging.getLogger("botocore.auth").debug("after")
    finally:
        logging.getLogger("botocore.auth").setLevel(logging.NOTSET)
    assert [record.getMessage() for record in caplog.records] == ["plain", "after"]
