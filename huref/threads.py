"""The number of threads that measurements use: always the same, so that their bits are the same.

A matrix product that is divided among another number of threads adds its terms in another order.
Fingerprints are therefore computed with THREADS threads on every machine and whatever
OMP_NUM_THREADS says; several models at a time use more cores.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

THREADS = 2  # the figures of docs/ were measured on two cores

_lock = threading.Lock()
_running = 0
_before = THREADS


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Run the block with THREADS threads of torch; blocks may overlap in several threads.

    The user's number is restored when the last of the overlapping blocks ends: part of torch's
    setting is the whole process's.
    """
    import torch

    global _running, _before
    with _lock:
        if _running == 0:
            _before = torch.get_num_threads()
        _running += 1
        torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                torch.set_num_threads(_before)
