"""Bad input ends in one line; bugs keep their traceback; what is stopped says so."""

import os
import signal
import subprocess
import sys

import pytest
import yaml

from tsf_llm.common.errors import from_folder, one_line_errors
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM


def ended(capsys, failing):
    """Exit code and lines on stderr of a command that calls `failing`."""
    with pytest.raises(SystemExit) as end, one_line_errors("name"):
        failing()
    return end.value.code, capsys.readouterr().err.splitlines()


def test_a_message_of_several_lines_becomes_one(capsys):
    def failing():
        raise ValueError("what,\n  where,\nremedy")

    assert ended(capsys, failing) == (2, ["name: error: what, where, remedy"])


def test_what_a_name_holds_does_not_steer_the_terminal(capsys):
    with pytest.raises(SystemExit), one_line_errors("tsf-llm"):
        raise ValueError("ticker \x1b[2JAAPL\x07 is 茅台")
    assert "ticker \\x1b[2JAAPL\\x07 is 茅台" in capsys.readouterr().err


def test_a_file_that_cannot_be_opened_is_named_first(capsys, tmp_path):
    code, [line] = ended(capsys, lambda: (tmp_path / "none").read_text())
    assert (code, line) == (
        2,
        f"name: error: {tmp_path / 'none'}: No such file or directory; check the path and its permissions",
    )


def test_broken_yaml_is_told_by_file_line_and_column(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("one: 1\ntwo:\t2\n")

    def failing():
        with open(tmp_path / "a.yaml") as file:
            yaml.safe_load(file)

    code, [line] = ended(capsys, failing)
    assert code == 2
    assert line.startswith(f"name: error: {tmp_path / 'a.yaml'}, line 2, column 5: no valid YAML")


def test_bugs_keep_their_traceback():
    with pytest.raises(TypeError), one_line_errors("name"):
        len(3)


def test_the_handler_of_sigterm_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with one_line_errors("name"):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_one_line_while_a_fork_dies_of_it_silently(number):
    script = f"""
import os, signal, time
from tsf_llm.common.errors import one_line_errors
signal.signal(signal.SIGINT, signal.default_int_handler)
with one_line_errors("name"):
    if os.fork() == 0:
        os.kill(os.getpid(), {signal.SIGTERM})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -{signal.SIGTERM}
    os.kill(os.getpid(), {number})
    time.sleep(5)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert (done.returncode, done.stderr) == (128 + number, "\nname: stopped\n")


def test_weights_that_are_cut_off_or_of_another_shape_are_told_by_their_folder(tiny_model, tiny_config, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_config(hidden_size=16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: its weights have other shapes"):
        from_folder(TsfLlmForCausalLM, str(tmp_path))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{tmp_path}: its weights are not whole"):
        from_folder(TsfLlmForCausalLM, str(tmp_path))
