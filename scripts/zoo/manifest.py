"""checkpoints/zoo/manifest.json: what each model is and whom it descends from.

The file is {"python": version whose standard library was the text, "models": {name: entry}}, and
an entry holds

- relation: how it was made: a key of `zoo.relations.RELATIONS` or `zoo.copies.COPIES`
- parents: names, [] for a base; a twin that only shares its initialisation is a base
- teacher: the model whose outputs it was trained on, in `distilled` models alone
- role: "stranger" for bases that are there only to be compared with other bases
- method, shares: how parents were merged, and how much of each, in merges that say so
- kinds: the attacks, in `attacked` models alone
- initialisation: architecture and seed of the untrained weights that it goes back to; of the first
  architecture where the config says that two draw the same
- architecture: transformers class
- domain, seed, data_seed, steps, learning_rate: from the config, null where unused
- tokens: how many it was trained on in this step (its parents' are their own)
- parameters: number of weights in the folder, tied ones once (an adapter's own only)
- bytes: size of the folder
- seconds: time that it took
- held_out_loss: {domain: {"before", "after"}} in nats per token, around this training: a base's
  "before" is the untrained loss, and elsewhere it comes after the surgery (blocks removed, tokens
  added, parents averaged)
- recipe: digest of everything in the config that it and its parents depend on
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Models = Mapping[str, Mapping[str, Any]]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a zoo, or an empty one."""
    path = folder / "manifest.json"
    if not path.exists():
        return {"models": {}}
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, whole or not at all."""
    partial = folder / ".manifest.json"
    partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / "manifest.json")


def ancestors(models: Models, name: str) -> set[str]:
    """The model itself, its parents, their parents and so on."""
    return {name}.union(*(ancestors(models, parent) for parent in models[name]["parents"]))


def _initialisations(models: Models, names: set[str]) -> set[str]:
    return {models[name]["initialisation"] for name in names if not models[name]["parents"]}


def _teachers(models: Models, names: set[str]) -> set[str]:
    """All that the models learned from, and what those descend from."""
    taught = {models[name]["teacher"] for name in names if models[name].get("teacher")}
    return set().union(*(ancestors(models, teacher) for teacher in taught))


def kinship(models: Models, a: str, b: str) -> str:
    """The truth about two models, whatever their order.

    `descends`: one is an ancestor of the other. `siblings`: both descend from one trained model.
    `shared initialisation`: only their untrained weights were the same. `distilled`: no weights
    in common, but one learned from the outputs of the other's family. Else `unrelated`.
    """
    of_a, of_b = ancestors(models, a), ancestors(models, b)
    if a in of_b or b in of_a:
        return "descends"
    if of_a & of_b:
        return "siblings"
    if _initialisations(models, of_a) & _initialisations(models, of_b):
        return "shared initialisation"
    if of_a & _teachers(models, of_b) or of_b & _teachers(models, of_a):
        return "distilled"
    return "unrelated"
