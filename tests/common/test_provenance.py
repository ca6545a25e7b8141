"""provenance.py: the version and the commit, or None where there is none."""

import subprocess

from tsf_llm.common import provenance as module
from tsf_llm.common.provenance import provenance


def test_provenance_names_version_and_commit():
    assert set(provenance("sft")) == {"made_by", "version", "commit"}
    assert provenance("sft")["version"]


def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    def git(*words):
        return subprocess.run(["git", "-C", tmp_path, *words], capture_output=True, text=True, check=True).stdout

    git("init", "--quiet")
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--quiet", "--allow-empty", "-m", "First")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "provenance.py"))
    assert provenance("sft")["commit"] == git("rev-parse", "--short", "HEAD").strip()


def test_outside_a_checkout_and_uninstalled_both_are_none(tmp_path, monkeypatch):
    def unknown(name):
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(module, "version", unknown)
    assert provenance("sft") == {"made_by": "sft", "version": None, "commit": None}


def test_without_git_the_commit_is_none(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance("sft")["commit"] is None
