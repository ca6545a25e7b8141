import socket

import pytest

from tsf_llm.serving import options
from tsf_llm.serving.http.run import listening, name_of, token
from tsf_llm.serving.http.settings import TOKEN


def test_a_port_that_is_taken():
    with listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}: .*in use; choose another"):
            listening("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1", "no.such.host.invalid", "203.0.113.7", "::zz", "x" * 300])
def test_a_host_that_is_none_of_this_machine(host):
    with pytest.raises(ValueError, match="choose another"):
        listening(host, 0)


def test_an_empty_token_is_none(monkeypatch):
    monkeypatch.setenv(TOKEN, "")
    assert token() is None


def test_names_are_no_paths(tmp_path):
    assert name_of("mini") == "mini"
    assert name_of(str(tmp_path)) == tmp_path.name


def test_the_command_ends_in_one_line(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, out, err = run("serve", "--model", "mini", "--port", taken.getsockname()[1])
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "in use" in err


def test_a_missing_extra_is_one_line(run, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "fastapi" else True)
    assert run("serve") == (2, "", 'tsf-llm: error: fastapi is not installed: pip install "tsf-llm[serve]"\n')
