"""What a server is told at its start. A fact such as a default has its home here."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = "TSF_LLM_TOKEN"  # environment variable


@dataclass(frozen=True)
class Settings:
    """How a server answers.

    Args:
        name: what the answers call the model.
        token: what a client must send as `Authorization: Bearer TOKEN`; None lets everybody in.
        cors: origins whose pages may call the server.
        timeout: seconds for one request, its body and its answer each.
        queue: requests that may be read and answered at one time; further ones get 429.
        workers: threads that read bars and compute features.
        window: seconds that a request waits for others to share its model pass.
        batch_rows: most series of one model pass.
        max_steps: most sampled steps (series x paths x bars ahead) of one request.
        max_body: most bytes of one body.
        state: folder of the streams; without one they end with the server.
        mcp: whether chat assistants are served at /mcp too.
        page: whether the page for people is served at / too.
        host: the address that is listened at; of a loopback one, MCP refuses other names in the Host header.
    """

    name: str = "model"
    token: str | None = field(default=None, repr=False)
    cors: tuple[str, ...] = ()
    timeout: float = 60.0
    queue: int = 64
    workers: int = 2
    window: float = 0.005
    batch_rows: int = 256
    max_steps: int = 65_536
    max_body: int = 16 * 2**20
    state: Path | None = None
    mcp: bool = False
    page: bool = False
    host: str = "127.0.0.1"


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
