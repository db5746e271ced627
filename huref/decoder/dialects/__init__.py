"""Conversion of StyleGAN2 generators from other code bases to the tensor names that huref renders.

A dialect is the tensor naming of one code base. huref uses NVIDIA's names. rosinality's network
has the same arithmetic, other names and one gain in another place. lucidrains' network has other
arithmetic (`huref.decoder.lucidrains_generator`). A converted generator gives the same picture as
the code base of the file, in float32.
"""

import re
from collections.abc import Callable

from huref.decoder.dialects.converted import Converted
from huref.decoder.dialects.lucidrains import convert_lucidrains
from huref.decoder.dialects.nvidia import convert_nvidia
from huref.decoder.dialects.rosinality import convert_rosinality
from huref.decoder.network_files import NetworkFile
from huref.errors import CheckpointError

# A tensor that only generators of the dialect have.
CONVERSIONS: dict[str, Callable[[NetworkFile], Converted]] = {
    "synthesis.b4.conv1.weight": convert_nvidia,
    "convs.0.conv.weight": convert_rosinality,
    "GE.blocks.0.conv1.weight": convert_lucidrains,
}


def convert(file: NetworkFile) -> Converted:
    """Recognise the dialect of a file by its tensors' names and convert the generator.

    Raises:
        CheckpointError: the dialect is unknown, or the variant cannot be rendered.
    """
    for name, conversion in CONVERSIONS.items():
        if name in file.entries:
            return conversion(file)
    if any(re.match(r"synthesis\.(input|L\d+_)", name) for name in file.entries):
        raise CheckpointError(
            "a StyleGAN3 generator, but only StyleGAN2 can be rendered",
            file=file.name,
            advice="take stylegan2-afhqdog-512x512.pkl from the same page, for instance",
        )
    examples = ", ".join(sorted(file.entries)[:3]) or "none"
    raise CheckpointError(
        "not a StyleGAN2 generator with the tensor names of NVIDIA, rosinality or lucidrains; it "
        f"has tensors such as {examples}",
        file=file.name,
    )
