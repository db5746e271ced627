"""Trains the decoder: distils the drawings into a StyleGAN2 generator, coarse to fine.

    python -m scripts.decoder train --minutes 60                      # start or continue
    python -m scripts.decoder train --minutes 0 --export FILE         # export the current state
    python -m scripts.decoder train --resume-from FILE --minutes 60   # warm start from an export

The run's folder holds the state (state.pt), the drawings, the learning curve (curve.csv) and sheets
of held-out drawings, with the generator's pictures below them.
"""

import ctypes
import os
import time
from pathlib import Path

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from scripts import make_parser
from scripts.decoder.training import Training


def keep_memory() -> None:
    """Make glibc's malloc keep freed memory, which is 18 % faster (measured: fewer page faults).

    It has no effect with other C libraries.
    """
    mmap_max, trim_threshold, top_pad = -4, -1, -2
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 200 << 20)


def share_machine() -> None:
    """Set the number of threads to that of idle cores.

    Threads synchronise hundreds of times a step: on busy cores two threads were 20 times slower
    than one (measured).
    """
    cores, own = os.cpu_count() or 1, torch.get_num_threads() + 1  # and the drawing process
    others = max(0.0, os.getloadavg()[0] - own)
    torch.set_num_threads(max(1, min(cores, round(cores - others))))


def train(training: Training, minutes: float, every: float, share: bool) -> None:
    """Train until the schedule or the minutes end; save and evaluate `every` so many seconds."""
    config = training.config
    began = saved = time.monotonic()
    if share:
        share_machine()
    while not training.finished and time.monotonic() - began < minutes * 60:
        stage = training.stages[training.stage]
        if training.seen_in_stage >= stage.images:
            training.next_stage()
            stage = training.stages[training.stage]
        training.gallery.resolution = stage.resolution
        drawing = training.gallery.start_drawing(config["renderer_niceness"])
        training.gallery.set_resolution(stage.resolution, config["first_shards"])
        bar = tqdm(
            total=stage.images,
            initial=training.seen_in_stage,
            desc=f"{stage.resolution} px",
            unit="img",
            disable=None,
            smoothing=0.05,
        )
        losses: list[Tensor] = []
        steps, looked, before = 0, time.monotonic(), training.seen
        while training.seen_in_stage < stage.images:
            losses.append(training.step(steps))
            steps += 1
            bar.update(stage.batch)
            now = time.monotonic()
            over = now - began >= minutes * 60
            if now - looked < every and not over and training.seen_in_stage < stage.images:
                continue
            speed = (training.seen - before) / (now - looked)
            training.seconds += now - saved
            loss = torch.stack(losses).mean().item()
            quality = training.record(loss, speed, steps)
            saved = time.monotonic()
            bar.set_postfix(loss=f"{loss:.4f}", psnr=f"{quality:.2f}")
            training.gallery.refresh()
            if share:
                share_machine()
            if not drawing.is_alive():
                drawing = training.gallery.start_drawing(config["renderer_niceness"])
            losses, looked, before = [], time.monotonic(), training.seen
            if over:
                break
        bar.close()
        drawing.kill()  # a stopped process does not react to terminate()
        drawing.join()


def main() -> None:
    """Train and export as the command line asks."""
    parser = make_parser(__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/decoder.yaml"))
    parser.add_argument("--run", type=Path, default=Path("runs/decoder"), help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of this call")
    parser.add_argument("--every", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--threads", type=int, default=0, help="0: the number of idle cores")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--resume-from", type=Path, metavar="FILE", help="start from an exported decoder"
    )
    parser.add_argument("--export", type=Path, metavar="FILE", help="export the decoder at the end")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    name = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device
    device = torch.device("cpu" if name == "auto" else name)
    keep_memory()
    config = yaml.safe_load(options.config.read_text())
    training = Training(config, options.run, device)
    if options.resume_from:
        training.warm_start(options.resume_from)
    elif (options.run / "state.pt").exists():
        training.load()
    if options.minutes > 0:
        train(training, options.minutes, options.every, share=options.threads == 0)
    if options.export:
        training.gallery.resolution = training.stages[training.stage].resolution
        training.export(options.export)
