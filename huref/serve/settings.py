"""What the operator of a page decided when it was started."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

MOST_MODELS = 50  # in one comparison on the page
MOST_WAITING = 100  # jobs
MOST_KEPT = 50  # finished jobs whose results can still be fetched
LARGEST_UPLOAD = 256 * 1024 * 1024  # bytes of one file
MOST_UPLOADED = 1024 * 1024 * 1024  # bytes of all files
LARGEST_REQUEST = 1024 * 1024  # bytes of a request other than an upload


@dataclass(frozen=True)
class Settings:
    """What the operator decided.

    Attributes:
        roots: folders below which local models may be read, resolved; relative names are looked up
            in them in this order.
        registry: URI of the known bases.
        token: what every request must present; "" for none.
        host: the address that the server listens on.
        workers: processes that measure; one job at a time each.
    """

    roots: tuple[Path, ...]
    registry: str
    token: str = field(default="", repr=False)
    host: str = "127.0.0.1"
    workers: int = 1


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
