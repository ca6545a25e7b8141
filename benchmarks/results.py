"""What the benchmarks share: where results go, and on what they were measured."""

import os
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass
class Output:
    """Options of every benchmark."""

    json: Path | None = field(
        default=None, metadata={"metavar": "FILE", "help": "write all results here (an existing file is replaced)"}
    )
    quick: bool = field(default=False, metadata={"help": "tiny, to see that it works; its figures mean nothing"})

    def __post_init__(self) -> None:
        if self.json is not None and (self.json.is_dir() or not self.json.absolute().parent.is_dir()):
            raise ValueError(f"--json {self.json}: give a file name in an existing folder")


def circumstances(*packages: str, **machine: Any) -> dict[str, Any]:
    """The machine, with these facts too, and the versions of Python and `packages`."""
    versions = {"python": sys.version.split()[0], **{name: version(name) for name in packages}}
    return {"machine": {"cpu_count": os.cpu_count(), **machine}, "versions": versions}
