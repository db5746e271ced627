"""Writes the test as one HTML file, for people: no network, keyboard or touch.

    python -m scripts.humans page humans.html --seed 1
    python -m scripts.humans score answers-1.json     # what the page saved

The page has the pictures and the order of the questions, and no answers: these follow from the
seed.
"""

import base64
import io
import json
from pathlib import Path

from PIL import Image

from huref.files import replacing
from scripts import make_parser
from scripts.humans.drawing import DRAWINGS, source_of
from scripts.humans.score import FORMAT
from scripts.humans.trials import Pictures, Trial, make_trial

SIDE = 256  # pixels; larger pictures are reduced
TEMPLATE = Path(__file__).with_name("page.html")


def data_uri(picture: Pictures) -> str:
    """A picture (r, r, 3) as a data URI of a JPEG."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    if image.width > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def page_of(trial: Trial, seed: int, name: str) -> str:
    """The page of a test, without the answers."""
    questions = {
        "format": FORMAT,
        "seed": seed,
        "pictures": name,
        "images": [data_uri(picture) for picture in trial.pictures],
        "matching": [[one.asked, *one.choices] for one in trial.matching],
        "pairs": [[pair.first, pair.second] for pair in trial.pairs],
    }
    # "<" would end the script element.
    data = json.dumps(questions).replace("<", "\\u003c")
    return TEMPLATE.read_text("utf-8").replace("/*QUESTIONS*/null", data)


def main() -> None:
    """Write the page that the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the questions, from 0")
    parser.add_argument("--pictures", default=DRAWINGS, help="'drawings' or a decoder's file")
    options = parser.parse_args()
    name, draw = source_of(options.pictures)
    page = page_of(make_trial(options.seed, draw), options.seed, name)
    with replacing(options.out) as temporary:
        temporary.write_text(page, "utf-8")
    print(f"{options.out}: {len(page) / 1e6:.1f} MB; open it in a browser")
