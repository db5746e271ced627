"""A worker process: does one task after the other until it is told to stop or its server is gone.

Measurements run in processes of their own, because only a process can be stopped in the middle of
a matrix product.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from huref.errors import HurefError, one_line
from huref.serve.task import Answer, Failure, Task

GRACE = 3.0  # seconds in which a stopped worker removes its temporary files


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know once.

    Attributes:
        folder: its working folder, the first root.
        readable: folders below which models are read.
    """

    folder: Path
    readable: tuple[Path, ...]


def run_worker(pipe: Connection, setup: Setup) -> None:
    """The main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the server stops its workers
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_server, daemon=True).start()
    os.chdir(setup.folder)
    # Threads that wait for each other by spinning would slow the page's other jobs down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from huref.loader.confinement import confine
    from huref.progress import be_quiet
    from huref.serve.measure import warm_up

    be_quiet()
    confine([*setup.readable, *_hub_cache()])
    warm_up()
    threads = _most_threads()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_answer(task, pipe, threads))


def _most_threads() -> int:
    """The threads that torch would use by itself: OMP_NUM_THREADS, or one a core."""
    import torch

    return torch.get_num_threads()


def _hub_cache() -> list[Path]:
    """The cache of the Hub's client, from which models are opened by their Hub ids."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    return [cache] if cache.is_dir() else []


def _answer(task: Task, pipe: Connection, threads: int) -> Answer:
    import torch

    from huref.serve.measure import explain, measure_task

    torch.set_num_threads(min(task.threads, threads))
    try:
        return measure_task(task, pipe.send)
    except (HurefError, OSError) as error:
        return Failure(one_line(explain(error, task)))
    except MemoryError:
        return Failure("there is not enough memory for these models; see HUREF_MAX_MEMORY")
    except Exception as error:  # a page survives any model
        print(f"huref: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
        return Failure(f"an error in huref ({type(error).__name__}), please report it")


def _leave(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _leave_with_server() -> None:
    """End this process when the server is gone, however it ended."""
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
