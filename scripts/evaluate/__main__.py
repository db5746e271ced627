"""Commands of `python -m scripts.evaluate`."""

from scripts import run_command

COMMANDS = {
    "zoo": ("zoo", "ICS and latent cosines of the committed zoo; docs/measured/zoo.md"),
    "lineage": ("lineage.run", "verdicts compared with rival methods; docs/measured/lineage.md"),
    "encoder": ("encoder.run", "accuracy of latents; docs/measured/encoder-evaluation.md"),
    "decoder": ("decoder.run", "fidelity and traits of the decoder; docs/measured/decoder.md"),
    "attacks": (
        "attacks.run",
        "every attack beside other methods; docs/measured/attacks.md",
    ),
    "price": ("price.run", "what hiding costs; docs/measured/price.md"),
    "twins": ("twins.run", "descent or a shared initialisation; docs/measured/twins.md"),
    "disguises": (
        "disguises",
        "verdicts on disguised, framed and structured models; docs/measured/disguises.md",
    ),
    "mixtures": ("mixtures.run", "mergekit's merges taken apart; docs/measured/mixtures.md"),
    "architectures": (
        "architectures",
        "supported architectures of transformers; docs/measured/architectures.md",
    ),
    "blackbox": (
        "blackbox.run",
        "accuracy of `huref probe` on served models; docs/measured/probe.md",
    ),
}

if __name__ == "__main__":
    run_command("evaluate", COMMANDS)
