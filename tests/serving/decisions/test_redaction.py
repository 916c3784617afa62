"""What tells who somebody is, or opens something, is taken out; what only looks a little like it stays."""

import time

import pytest

from serving.config import load_config
from serving.decisions.redaction import SECONDS, TOO_LONG, Redactor
from specs.errors import InvalidConfig


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Write to jane.doe+x@mail.example.co.uk, please.", "Write to [e-mail], please."),
        ("Call +49 (30) 1234-5678 now", "Call [phone] now"),
        ("or 030 12345678.", "or [phone]."),
        ("or (555) 123-4567", "or [phone]"),
        ("My card is 4111 1111 1111 1111, thanks", "My card is [card], thanks"),
        ("cards 5500-0000-0000-0004 and 378282246310005", "cards [card] and [card]"),
        ("order 12345 4111111111111111 sent", "order 12345 [card] sent"),
        ("key sk-abcDEF1234567890abcd!", "key [key]!"),
        ("lw-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5", "[key]"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        ("it is eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqYW5lIn0.c2lnbmF0dXJl", "it is [key]"),
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer [key]"),
        ("ghp_0123456789abcdefghij0123456789abcdef", "[key]"),
        ("0123456789abcdef0123456789abcdef01234567", "[key]"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb", "a\n[key]\nb"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE that was cut", "[key]"),
    ],
)
def test_it_is_taken_out(text: str, kept: str) -> None:
    assert Redactor().redacted(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn in 2009-2010.",
        "4111 1111 1111 1112 is no card, and 1234567890123 is none",
        "Jack had 8 pens, lost 3 and bought 12.",
        "pi is 3.14159265358979323846",
        "a_name_of_a_function_that_is_rather_long_but_plain",
        "user@localhost",
        "1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024",
        "",
    ],
)
def test_it_stays(text: str) -> None:
    assert Redactor().redacted(text) == text


def test_own_patterns_come_too() -> None:
    assert Redactor([r"patient \d+", "(?i)acme"]).redacted("Patient? patient 12 of ACME") == (
        "Patient? [redacted] of [redacted]"
    )


def test_a_wrong_pattern_is_said() -> None:
    with pytest.raises(InvalidConfig, match=r"decisions\.redact: '\(' is no regular expression"):
        Redactor(["("])


def test_a_pattern_that_takes_too_long_keeps_nothing() -> None:
    started = time.monotonic()
    assert Redactor([r"(a|aa)+$"]).redacted(40 * "a" + "b") == TOO_LONG
    assert time.monotonic() - started < 20 * SECONDS


UNITS = ["a", "-", "1 ", "a-", "1", "@", "a@b.", "a.b@c-", "(0", "+4 ", "+1 (2)/", "00.1-", "0 1-", "4111 ", "sk-"]
UNITS += ["AKIA-", "AIza-", "eyJ-", "eyJaaaaaaaa.", "bearer ", "basic\t\n", " ", "-----BEGIN ", "-----END "]


@pytest.mark.parametrize("unit", [*UNITS, "-----BEGIN PRIVATE KEY-----END "])
def test_no_text_takes_long(unit: str) -> None:
    text = (unit * 65_536)[:65_536]
    started = time.thread_time()  # other tests' threads may still be at work
    Redactor().redacted(text)
    assert time.thread_time() - started < 1.5


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("redact", ["a", "("], "is no regular expression"),
        ("otlp_endpoint", "collector:4318", "begins with http"),
        ("otlp_endpoint", "http://", "begins with http"),
    ],
)
def test_a_configuration_with_a_wrong_value_is_refused_at_the_start(key: str, value: object, why: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"decisions\.{key}.*{why}"):
        load_config(None, {"decisions": {key: value}})
