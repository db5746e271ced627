"""What other StyleGAN2 code bases call their tensors, turned into the one layout huref renders.

NVIDIA's own names are the layout. rosinality's network has the same arithmetic under other names
and with one constant elsewhere. lucidrains' is another network (`huref.decoder.lucidrains`).
Every conversion gives the same picture as the code that the file was made with, in float32.
"""

import re
from collections.abc import Callable

from huref.decoder.dialects.converted import Converted
from huref.decoder.dialects.lucidrains import convert_lucidrains
from huref.decoder.dialects.nvidia import convert_nvidia
from huref.decoder.dialects.rosinality import convert_rosinality
from huref.decoder.files import Source
from huref.errors import CheckpointError


def convert(source: Source) -> Converted:
    """Recognise a file's dialect by its tensors' names and convert it.

    Raises:
        CheckpointError: none of the known ones, or a variant that cannot be rendered.
    """
    names = source.entries
    dialects: tuple[tuple[str, Callable[[Source], Converted]], ...] = (
        ("synthesis.b4.conv1.weight", convert_nvidia),
        ("convs.0.conv.weight", convert_rosinality),
        ("GE.blocks.0.conv1.weight", convert_lucidrains),
    )
    for telling, dialect in dialects:
        if telling in names:
            return dialect(source)
    if any(re.match(r"synthesis\.(input|L\d+_)", name) for name in names):
        raise CheckpointError(
            f"{source.name}: a StyleGAN3 generator; only StyleGAN2's can be rendered, such as "
            "stylegan2-afhqdog-512x512.pkl from the same page"
        )
    raise CheckpointError(
        f"{source.name}: not a StyleGAN2 generator as NVIDIA, rosinality or lucidrains name its "
        f"tensors; it has, for instance, {', '.join(sorted(names)[:3]) or 'none'}"
    )
