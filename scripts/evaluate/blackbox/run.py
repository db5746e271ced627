"""Measures what `huref probe` recovers: sizes, logits, matches and updates.

    python -m scripts.evaluate blackbox size --tiny --models FOLDER...
    python -m scripts.evaluate blackbox queries --models FOLDER
    python -m scripts.evaluate blackbox match --zoo FOLDER
    python -m scripts.evaluate blackbox watch --before FOLDER --after FOLDER
    python -m scripts.evaluate blackbox changes --before FOLDER --after FOLDER --other FOLDER
    python -m scripts.evaluate blackbox round --before FOLDER --after FOLDER
    python -m scripts.evaluate blackbox server --url URL --baselines FOLDER --change NAME

The stub endpoint of the tests serves the models inside the process, except for `server`, which
watches a real one: its first call makes the baselines, later ones, after another model was started,
visits; `round` writes a model in four bits. The true values are read from
the models' configuration and weights. Each result is printed as one line of JSON.
"""

import json
import tempfile
from pathlib import Path

import torch

from huref.blackbox.baseline import MODES
from huref.errors import HurefError
from scripts import make_parser
from scripts.evaluate.blackbox.match import evaluate_match
from scripts.evaluate.blackbox.real import evaluate_server, write_rounded
from scripts.evaluate.blackbox.size import evaluate_queries, evaluate_size
from scripts.evaluate.blackbox.watch import evaluate_changes, evaluate_watch
from tests.support.served_models import KINDS, make_model


def main() -> None:
    """Measure and print one JSON object per line."""
    torch.set_num_threads(1)
    parser = make_parser(__doc__)
    commands = ("size", "queries", "match", "watch", "changes", "round", "server")
    parser.add_argument("what", choices=commands)
    parser.add_argument("--models", nargs="*", type=Path, default=[])
    parser.add_argument(
        "--tiny", action="store_true", help="also measure a random model of every kind of head"
    )
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--after", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--url")
    parser.add_argument("--baselines", type=Path)
    parser.add_argument("--change", default="none")
    options = parser.parse_args()
    try:
        if options.what == "size":
            scratch = Path(tempfile.mkdtemp(prefix="huref-heads-"))
            kinds = KINDS if options.tiny else ()
            tiny = [make_model(scratch / kind, kind) for kind in kinds]
            results = evaluate_size([*tiny, *options.models])
        elif options.what == "queries":
            results = evaluate_queries(options.models, options.tokens, options.prompts)
        elif options.what == "match":
            results = evaluate_match(options.zoo)
        elif options.what == "changes":
            folders = (options.before, options.after, options.other)
            results = evaluate_changes(*folders, options.trials, options.modes)
        elif options.what == "round":
            results = write_rounded(options.before, options.after)
        elif options.what == "server":
            trials = dict.fromkeys(options.modes, options.trials)
            results = evaluate_server(options.url, options.baselines, options.change, trials)
        else:
            results = evaluate_watch(options.before, options.after, options.trials)
        for figures in results:
            print(json.dumps(figures), flush=True)
    except HurefError as error:
        raise SystemExit(str(error)) from error
