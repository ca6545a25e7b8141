"""What made a number: the release of this package and, in a checkout, the commit."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def provenance(root: Path | None = None) -> dict[str, str | None]:
    """Package version and, in a git checkout, the commit that made the numbers."""
    try:
        release = version("tsf-llm")
    except PackageNotFoundError:
        release = None
    try:
        command = ["git", "-C", str(root or Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {"version": release, "commit": commit}
