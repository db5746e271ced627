"""YAML from outside, parsed with bounded depth and memory.

Model cards, configurations of merges and recipes go through `loads`. The events of a text are
counted before its values are built; an alias counts as all that it stands for, so that neither
merge keys nor a later walk over the values can cost more than the text's size justifies.
"""

from typing import Any

import yaml

from huref.budget import Budget
from huref.errors import BudgetExceededError

MAX_DEPTH = 60  # of nested collections
LONGEST_NUMBER = 18  # characters; longer integers may hash alike, and 1:59:59 is one as well
MOST_DIRECTIVES = 64  # lines such as %TAG; the parser compares each with all before it
NODE = 700  # bytes of a value with the node that it is built from

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is in PyYAML's wheels


class YamlError(ValueError):
    """The text is not YAML, or costs more than its size justifies."""


class _Loader(_Parser):  # type: ignore[misc]
    """PyYAML's safe loader with numbers of usual length."""

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        if len(node.value) > LONGEST_NUMBER:
            raise YamlError(f"a number of {len(node.value)} characters")
        kind = node.tag.rpartition(":")[2]
        return self.construct_yaml_int(node) if kind == "int" else self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def load_shipped(text: str) -> Any:
    """The value of a YAML text that is part of huref, without limits."""
    return yaml.load(text, Loader=_Parser)


def loads(text: str) -> Any:
    """The value of a YAML text of one document.

    Raises:
        YamlError: it is not YAML, too deep, refers to itself, or has more values than its size
            justifies. The message is one line.
    """
    try:
        _check(text)
        return yaml.load(text, Loader=_Loader)
    except YamlError:
        raise
    except BudgetExceededError as error:
        raise YamlError(error.what) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise YamlError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def _check(text: str) -> None:
    """Raise YamlError for a text that is too deep, or would need too much memory."""
    if text.count("\n%") + text.startswith("%") > MOST_DIRECTIVES:
        raise YamlError(f"more than {MOST_DIRECTIVES} directives")
    budget = Budget(len(text))
    open_nodes: list[tuple[str | None, int]] = []  # anchor, nodes counted before it
    sizes: dict[str, int] = {}
    count = 0
    for event in yaml.parse(text, Loader=_Parser):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == one for one, _ in open_nodes):
                raise YamlError(f"'{str(anchor)[:40]}' refers to itself")
            added = sizes.get(str(anchor), 1)
        elif isinstance(event, yaml.NodeEvent):
            added = 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((anchor, count))
                if len(open_nodes) > MAX_DEPTH:
                    raise YamlError(f"its values are nested more than {MAX_DEPTH} deep")
            elif anchor is not None:
                sizes[anchor] = 1
        else:
            added = 0
            if isinstance(event, yaml.CollectionEndEvent):
                opened, before = open_nodes.pop()
                if opened is not None:
                    sizes[opened] = count - before
        count += added
        budget.spend(NODE * added)
