"""The stand-in Hub, as a module: it lies beside the tests and is no part of the package."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def stand_in():
    """The module `stand_in_hub`."""
    if "stand_in_hub" not in sys.modules:
        path = Path(__file__).parents[1] / "stand_in_hub.py"
        spec = importlib.util.spec_from_file_location("stand_in_hub", path)
        module = sys.modules["stand_in_hub"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["stand_in_hub"]
