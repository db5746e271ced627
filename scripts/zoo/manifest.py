"""checkpoints/zoo/manifest.json: what each model is and which models it descends from.

The file is {"python": version whose standard library was the text, "models": {name: entry}}. An
entry has

- relation: how it was made: a key of `zoo.relations.RELATIONS` or `zoo.copies.COPIES`
- parents: names, [] for a base; a twin, which only shares an initialisation, is a base
- teacher: the model whose outputs it was trained on; only in `distilled` models
- role: "stranger" for bases that are only compared with other bases
- method, shares: merge method and share of each parent; not in plain averages
- kinds: the attacks; only in `attacked` models
- initialisation: architecture and seed of its untrained weights; where the config lists two
  architectures with the same initial weights, the first of them
- architecture: transformers class
- domain, seed, data_seed, steps, learning_rate: from the config, null where unused
- tokens: number of tokens of its own training, without its parents'
- parameters: number of weights in the folder, tied ones counted once
- bytes: size of the folder
- seconds: time to make it
- held_out_loss: {domain: {"before", "after"}} in nats per token, before and after its own training.
  Blocks are removed, tokens added and parents merged before "before"
- recipe: digest of everything in the config that it and its parents depend on (no huref recipe)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Models = Mapping[str, Mapping[str, Any]]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a zoo; without a file, return an empty one."""
    path = folder / "manifest.json"
    if not path.exists():
        return {"models": {}}
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest atomically."""
    partial = folder / ".manifest.json"
    partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / "manifest.json")


def ancestors(models: Models, name: str) -> set[str]:
    """The model itself, its parents, their parents and so on."""
    return {name}.union(*(ancestors(models, parent) for parent in models[name]["parents"]))


def _initialisations(models: Models, names: set[str]) -> set[str]:
    return {models[name]["initialisation"] for name in names if not models[name]["parents"]}


def _teachers(models: Models, names: set[str]) -> set[str]:
    """The models' teachers and the ancestors of these."""
    taught = {models[name]["teacher"] for name in names if models[name].get("teacher")}
    return set().union(*(ancestors(models, teacher) for teacher in taught))


def kinship(models: Models, a: str, b: str) -> str:
    """The true relation of two models; the order of a and b does not matter.

    `descends`: one is an ancestor of the other. `siblings`: both descend from one trained model.
    `shared initialisation`: they only have the same untrained weights. `distilled`: different
    weights, but one was trained on outputs of the other's family. Else `unrelated`.
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
