import pytest

from tsf_llm.serving.http.settings import Settings, is_local


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_hosts_that_others_reach(host, local):
    assert is_local(host) == local


def test_the_token_is_not_shown():
    assert "secret" not in repr(Settings(token="secret"))
