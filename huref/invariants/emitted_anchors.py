"""Anchors for recipes that run a model: strings that its tokenizer emits, where that is known."""

from dataclasses import replace

from huref.errors import AnchorError
from huref.invariants.anchors import Anchors, choose_anchors, choose_emitted
from huref.loader.checkpoint import Checkpoint
from huref.recipe import Recipe


def choose_for_function(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Anchors, Recipe, float]:
    """Anchors, the recipe, and the share of the tried strings that the tokenizer does not emit.

    Where it emits too few, or cannot be run, strings are not checked, and the share is 0: such a
    tokenizer is not the model's, or is run in another way. Where normal tokens are too few, added
    ones count as well, and then strings of every script.
    """
    tokens, encoder = checkpoint.vocabulary, checkpoint.encoder
    plain = [replace(t, kind="normal") if t.kind == "added" else t for t in tokens]
    rules = dict.fromkeys((recipe.anchors, "all"))
    for vocabulary in (tokens, plain):
        for rule in rules:
            named = recipe
            if rule != recipe.anchors:
                named = replace(recipe, name=f"{recipe.name}+all-tokens", anchors=rule)
            if encoder is not None:
                anchors, unemitted = choose_emitted(vocabulary, recipe.m, rule, encoder.emits)
                if anchors is not None:
                    return anchors, named, unemitted
            try:
                return choose_anchors(vocabulary, recipe.m, rule), named, 0.0
            except AnchorError:
                if vocabulary is plain and rule == "all":
                    raise
    raise AnchorError("the vocabulary has no tokens")
