import socket
import subprocess
import sys

import pytest

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


def test_the_command_ends_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["serve", "--model", "mini", "--port", str(taken.getsockname()[1])]
        command = [sys.executable, "-c", "from tsf_llm.serving.cli import main; main()", *words]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "in use" in done.stderr
