"""Commands of `python -m scripts.evaluate`."""

from scripts import run_command

COMMANDS = {
    "zoo": ("zoo", "ICS and latent cosines of the zoo that ships; docs/measured/zoo.md"),
    "lineage": ("lineage.run", "verdicts beside rival methods; docs/measured/lineage.md"),
    "encoder": ("encoder.run", "how faithful latents are; docs/measured/encoder-evaluation.md"),
    "decoder": ("decoder.run", "fidelity and traits of the decoder; docs/measured/decoder.md"),
    "attacks": (
        "attacks",
        "what function-preserving attacks leave of the terms; docs/measured/attacks.md",
    ),
    "architectures": (
        "architectures",
        "which architectures of transformers are read; docs/measured/architectures.md",
    ),
    "blackbox": (
        "blackbox.run",
        "what `huref probe` recovers from served models; docs/measured/probe.md",
    ),
}

if __name__ == "__main__":
    run_command("evaluate", COMMANDS)
