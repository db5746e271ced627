"""The truth about every pair of a zoo, from its manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scripts.zoo.manifest import Models, ancestors, kinship

EXPECTED = {
    "descends": "descends",
    "siblings": "descends",  # trained weights in common
    "shared initialisation": "shared initialisation",
    "distilled": "unrelated",
    "unrelated": "unrelated",
}
NOUNS = {
    "finetune": "fine-tune",
    "continued": "continued pretraining",
    "preferred": "preference tuning",
    "lora": "LoRA",
    "extended": "extended vocabulary",
    "revocabulary": "replaced vocabulary",
    "pruned": "depth pruning",
    "narrowed": "width pruning",
    "stacked": "stacked blocks",
    "quantised": "four bits",
    "upcycled": "experts from dense",
}


# In the continuation with the highest learning rate too few units correspond where the other model
# also has another vocabulary or permuted units; beside a pruned model its weights look damaged.
MISSES = (
    ("llama-1-cpt-5", "llama-1-metaspace"),
    ("llama-1-cpt-5", "llama-1-sft-attacked"),
    ("llama-1-cpt-5", "llama-1-early-cut"),
)


@dataclass(frozen=True)
class Truth:
    """Two models and their true relation.

    Attributes:
        a: a model; the ancestor where one of the two is.
        b: the other.
        kinship: see `zoo.manifest.kinship`.
        how: the steps between an ancestor and its descendant; elsewhere the kinship.
        independent: both are bases with different seeds.
    """

    a: str
    b: str
    kinship: str
    how: str
    independent: bool

    @property
    def expected(self) -> str:
        """The verdict that is right."""
        return EXPECTED[self.kinship]


def groups(models: Models) -> list[list[str]]:
    """Groups of models that are compared with each other: all but strangers, and all bases."""
    known = [name for name, entry in models.items() if entry.get("role") != "stranger"]
    return [known, [name for name, entry in models.items() if not entry["parents"]]]


def all_pairs(models: Models, sample: int = 1) -> list[Truth]:
    """The pairs of models to be measured, once each.

    All pairs of ancestor and descendant and of two bases; of the others one in `sample`, chosen by
    a hash of their names, since they are very many pairs of few families.
    """
    named = (pair for group in groups(models) for pair in combinations(group, 2))
    pairs = [_truth(models, a, b) for a, b in dict.fromkeys(named)]
    bases = {name for name, entry in models.items() if not entry["parents"]}
    return [
        pair
        for pair in pairs
        if pair.kinship == "descends" or {pair.a, pair.b} <= bases or _hash(pair) % sample == 0
    ]


def known_misses(models: Models, pairs: Sequence[Truth]) -> list[Truth]:
    """Pairs outside the sample that are known to be judged wrongly; always measured."""
    wanted = {frozenset(names) for names in MISSES} - {frozenset((p.a, p.b)) for p in pairs}
    return [
        _truth(models, *names) for names in sorted(map(sorted, wanted)) if {*names} <= {*models}
    ]


def _hash(pair: Truth) -> int:
    names = " ".join(sorted((pair.a, pair.b)))
    return int.from_bytes(hashlib.sha256(names.encode()).digest()[:8], "big")


def _truth(models: Models, a: str, b: str) -> Truth:
    kin = kinship(models, a, b)
    if kin == "descends" and b in ancestors(models, a):
        a, b = b, a
    how = " after ".join(_steps(models, a, b)) if kin == "descends" else kin
    bases = not models[a]["parents"] and not models[b]["parents"]
    # The same seed can give models of different shapes some of the same initial weights.
    different_seeds = models[a].get("seed") != models[b].get("seed")
    return Truth(a, b, kin, how, bases and different_seeds and kin in ("unrelated", "distilled"))


def _steps(models: Models, ancestor: str, name: str) -> list[str]:
    """The steps from an ancestor to a descendant, the last step first."""
    if name == ancestor:
        return []
    parent = next(p for p in models[name]["parents"] if ancestor in ancestors(models, p))
    return [step_of(models, name), *_steps(models, ancestor, parent)]


def step_of(models: Models, name: str) -> str:
    """The step that made a model from its parents, in a few words."""
    entry = models[name]
    if entry["relation"] == "attacked":
        kinds = entry["kinds"]
        return "all attacks" if kinds == ["all"] else " and ".join(kinds)
    if entry["relation"] == "merge":
        return f"{entry.get('method', 'linear')} merge of {len(entry['parents'])}"
    return NOUNS[entry["relation"]] + (" + training" if _is_healed(entry) else "")


def _is_healed(entry: Mapping[str, Any]) -> bool:
    surgical = ("pruned", "narrowed", "stacked", "upcycled")
    return entry["relation"] in surgical and bool(entry["steps"])
