"""What made a number: the command, the release of this package and, in a checkout, the commit."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def provenance(made_by: str) -> dict[str, str | None]:
    """The command that wrote a report (`sft`, `evaluate`, ...), the version and, in a git checkout, the commit."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {"made_by": made_by, "version": release("tsf-llm"), "commit": commit}


def release(package: str) -> str | None:
    """The installed version; None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
