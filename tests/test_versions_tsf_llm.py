"""Too old a transformers ends in one clear line, wherever our code is entered; both names of the cache are known."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tsf_llm.versions_tsf_llm as versions

ROOT = Path(versions.__file__).parent
REMEDY = 'pip install --upgrade "transformers>='
TOLD = "ImportError: transformers 4.40.2 is installed, TSF-LLM needs "
OLD = "sys.modules['transformers'].__version__ = '4.40.2'"


def run(code, *arguments, **options):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options)


def test_bound_equals_that_of_setup():
    needed = re.search(r'"transformers>=(\d+)\.(\d+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert tuple(map(int, needed.groups())) == versions.NEEDED


@pytest.mark.parametrize("installed", ["5.20.0", "5.24.0.dev0", "6.0.0rc1", "10.0"])
def test_later_releases_pass(installed):
    assert versions.check(installed) >= versions.NEEDED


@pytest.mark.parametrize("installed", ["4.57.6", "5.9.0", "5.19.1.dev0"])
def test_error_tells_what_is_installed_what_is_needed_and_the_remedy(installed):
    with pytest.raises(ImportError, match=f"^transformers {installed} is installed.*needs 5.20 or later: {REMEDY}"):
        versions.check(installed)


@pytest.mark.parametrize("module", ["configuration_tsf_llm", "modeling_tsf_llm", "processing_tsf_llm"])
def test_check_comes_before_any_name_that_an_old_release_lacks(tmp_path, module):
    (tmp_path / "transformers.py").write_text('__version__ = "4.40.2"')  # a release that lacks all names
    done = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tsf_llm.{module}")
    assert done.stderr.splitlines()[-1].startswith(TOLD)


@pytest.mark.parametrize("kind", ["AutoConfig", "AutoProcessor", "AutoModelForCausalLM"])
def test_code_from_the_hub_says_so_too(base_folder, tmp_path, kind):
    load = "one.from_pretrained(sys.argv[1], trust_remote_code=True)"
    code = f"import sys; from transformers import {kind} as one; {OLD}; {load}"
    done = run(code, str(base_folder), env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert done.stderr.splitlines()[-1].startswith(TOLD)


def test_commands_end_in_that_line():
    code = f"import sys, transformers; {OLD}; sys.argv[0] = 'tsf-llm'; from tsf_llm.serving.cli import main; main()"
    done = run(code, "forecast", "--model", "nowhere", "--data", "sample", "--horizon", "2", "--out", "x.csv")
    assert done.returncode == 2
    assert done.stderr.startswith("tsf-llm: error: transformers 4.40.2 is installed")
    assert done.stderr.count("\n") == 1
