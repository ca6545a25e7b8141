"""Small files."""

import pytest


@pytest.fixture
def write(tmp_path):
    """Write text to a file below `tmp_path` and return its path."""

    def _write(text, name="prices.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write
