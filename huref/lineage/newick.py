"""A lineage forest in Newick notation, which phylogenetics software reads.

https://phylipweb.github.io/phylip/newicktree.html
"""

from huref.escape import newick
from huref.lineage.tree import Forest, Tree


def as_newick(forest: Forest) -> str:
    """One tree a line, ended by ";"; branch lengths are -ln ICS, labels are those of the table."""
    labels = [newick(label) for label in forest.table.labels]
    return "".join(f"{_write(tree, labels)};\n" for tree in forest.trees)


def _write(tree: Tree, labels: list[str]) -> str:
    children: dict[int, list[str]] = {}
    for number, node in reversed(list(enumerate(tree.nodes))):  # children before their parents
        inner = ",".join(reversed(children.pop(number, [])))
        text = (f"({inner})" if inner else "") + ("" if node.model is None else labels[node.model])
        if node.above is None:
            return text
        children.setdefault(node.above, []).append(f"{text}:{node.length:.6f}")
    return ""
