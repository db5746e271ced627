"""A comparison as one picture: the dogs side by side above the heat map."""

import numpy as np
from PIL import Image

from huref.decoder.picture import PAPER, Picture, contact_sheet, pair_view
from huref.lineage.table import LineageTable
from huref.report.heatmap import draw_heatmap
from huref.report.portraits import Portraits, draw_portraits
from huref.report.raster import SCALE, rasterise

FEW = 12  # number of models up to which the dogs are large
SMALLEST = 1.25  # least scale of the heat map


def draw_table(
    table: LineageTable, *, recipe: str = "default", portraits: Portraits | None = None
) -> Picture:
    """A contact sheet of the models above their heat map, (height, width, 3) uint8.

    Args:
        table: the measured pairs.
        recipe: the recipe whose decoder draws the dogs.
        portraits: the dogs, where they have been drawn already.
    """
    portraits = portraits or draw_portraits(table, recipe)
    canvas = draw_heatmap(table)
    if not any(image is not None for image in portraits.images):
        return rasterise(canvas, portraits)
    few = len(table.records) <= FEW
    blank = np.full((8, 8, 3), PAPER, dtype=np.uint8)
    dogs = [blank if image is None else image for image in portraits.images]
    cell = 256 if few else 128
    across = round(SMALLEST * canvas.width) // (cell + cell // 16)
    columns = 4 if few else max(10, across)
    if len(dogs) == 2:
        sheet = pair_view(dogs, table.labels, _figures(table))
    else:
        sheet = contact_sheet(dogs, table.labels, min(columns, len(dogs)), cell)
    scale = min(max(sheet.shape[1] / canvas.width, SMALLEST), SCALE)
    heatmap = rasterise(canvas, portraits, scale)
    width = max(sheet.shape[1], heatmap.shape[1])
    both = Image.new("RGB", (width, sheet.shape[0] + heatmap.shape[0]), PAPER)
    both.paste(Image.fromarray(sheet), (0, 0))
    both.paste(Image.fromarray(heatmap), (0, sheet.shape[0]))
    return np.asarray(both)


def _figures(table: LineageTable) -> str:
    similarity = table.pairs[0].similarity
    figures = (("ICS", similarity.ics), ("cos z", similarity.latent_cosine))
    return "   ".join(f"{name} {value:.2f}" for name, value in figures if value is not None)
