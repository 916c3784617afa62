"""A collector's URL gets the path of what is sent to it, where it has none."""

import pytest

from serving.otlp import otlp_url


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://a:4318", "http://a:4318/v1/logs"),
        ("http://a:4318/", "http://a:4318/v1/logs"),
        ("http://a:4318//", "http://a:4318/v1/logs"),
        ("https://a/own/path", "https://a/own/path"),
        ("https://a/?x=1", "https://a/v1/logs?x=1"),
        ("https://a?x=/1", "https://a/v1/logs?x=/1"),
    ],
)
def test_the_path_of_a_collector(endpoint: str, url: str) -> None:
    assert otlp_url(endpoint, "/v1/logs") == url
