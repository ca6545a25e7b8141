"""What this code asks of transformers. The files that need a late release import this one before anything of it.

Design choices:
* Who loads a model from the Hub never sees setup.py: too old a release ends here, in one line, and not in the import
  of a name that it lacks. A test holds the bound equal to that of setup.py.
* transformers 5.24 renames the cache in the arguments of models, masks and `generate`, and in outputs. `CACHE` is its
  name in the running release. Models take both names; what they call and return goes by `CACHE`.
"""

import transformers

NEEDED = (5, 20)


def check(installed: str) -> tuple[int, int]:
    """Major and minor number of a release.

    Raises:
        ImportError: it is too old.
    """
    major, minor = map(int, installed.split(".")[:2])
    if (major, minor) < NEEDED:
        needed = ".".join(map(str, NEEDED))
        raise ImportError(
            f"transformers {installed} is installed, TSF-LLM needs {needed} or later: "
            f'pip install --upgrade "transformers>={needed}"',
            name="transformers",
        )
    return major, minor


CACHE = "cache" if check(transformers.__version__) >= (5, 24) else "past_key_values"

__all__ = ["CACHE", "NEEDED"]
