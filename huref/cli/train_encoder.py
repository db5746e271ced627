"""`huref train-encoder`: the encoder, from synthetic weights alone."""

from pathlib import Path

import click

from huref.cli.options import as_file, echo


@click.command("train-encoder")
@click.option("--config", type=as_file, required=True, help="For instance configs/encoder.yaml.")
@click.option("--resume", is_flag=True, help="Continue from the last saved step.")
@click.option("--device", default="auto", help="auto, cpu or cuda.  [default: auto]")
@click.option("-o", "--out", type=as_file, help="Checkpoint to write.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Number of steps, instead of the config's."
)
def train_encoder(
    config: Path, resume: bool, device: str, out: Path | None, steps: int | None
) -> None:
    """Train the encoder on synthetic Gaussian weights alone."""
    from huref.encoder.train import train

    echo(train(config, resume=resume, device=device, out=out, steps=steps))
