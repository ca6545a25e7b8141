"""app.py: a Space clones the tree flat under another name and installs nothing; importing loads and starts nothing."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import tsf_llm.configuration_tsf_llm as configuration

ROOT = Path(configuration.__file__).parent
pytest.importorskip("gradio", reason="gradio is not installed")
IMPORT = """
import sys
sys.meta_path = [one for one in sys.meta_path if "editable" not in repr(one).lower()]  # as if it were not installed
sys.path = [one for one in sys.path if "editable" not in one]
import app, os
import gradio as gr
assert isinstance(app.demo, gr.Blocks)
assert not app.demo.is_running
assert sys.modules["tsf_llm"].__path__ == [os.getcwd()], sys.modules["tsf_llm"]
assert app.blocks.__file__.startswith(os.getcwd())
assert not app.demo.analytics_enabled
from tsf_llm.serving.page import answers
print(answers.forecast(app.load_pipeline("mini"), answers.sample(), "AAPL", horizon=5).last["step"])
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The tree without its tests, under a name that is not the package's."""
    target = tmp_path_factory.mktemp("space") / "my-space"
    left_out = shutil.ignore_patterns("tests", "docs", ".*", "__pycache__", "*.egg-info", "model.safetensors", "build")
    shutil.copytree(ROOT, target, ignore=left_out)
    (target / "mini").mkdir(exist_ok=True)
    for path in (ROOT / "mini").glob("*"):
        shutil.copy(path, target / "mini")
    return target


def test_a_flat_clone_is_a_page(clone):
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TSF_LLM_MODEL")}
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "5"


def test_a_lent_gpu_does_the_work(monkeypatch):
    lent = []
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=lambda work: lent.append(work) or work))
    runpy.run_path(str(ROOT / "app.py"))
    assert len(lent) == 5


def test_nothing_touches_the_path():
    code = (ROOT / "app.py").read_text(encoding="utf-8")
    assert "sys.path" not in code
    assert code.index("spaces") < code.index("load_pipeline")


def test_requirements_are_those_of_setup_and_constraints():
    def names(text, pattern):
        return {name.replace("_", "-").lower() for name in re.findall(pattern, text)}

    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    core = names(re.search(r"CORE = \[(.*?)\n\]", setup, re.DOTALL)[1], r'"([\w.-]+)>=')
    serve = names(re.search(r"SERVE = \[(.*?)\n\]", setup, re.DOTALL)[1], r'"([\w.-]+)(?:\[\w+\])?>=')
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s#]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {name.replace("_", "-").lower(): version for name, version in pinned.items()}
    asked = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    asked = {name.replace("_", "-").lower(): version for name, version in asked.items()}
    page = {"gradio", "plotly"}
    assert page <= serve
    assert set(asked) == core | page
    assert asked == {name: pinned[name] for name in asked}


def test_the_head_of_the_readme_is_that_of_a_space():
    head = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("\n---\n")[0].removeprefix("---\n"))
    pinned = re.search(r"^gradio==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert head["sdk"] == "gradio"
    assert head["sdk_version"] == pinned
    assert (ROOT / head["app_file"]).is_file()
    assert {"title", "emoji", "colorFrom", "colorTo", "pinned", "license"} <= set(head)
    assert head["pipeline_tag"]  # still the card of a model
