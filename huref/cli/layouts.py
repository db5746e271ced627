"""`huref layouts`: which architectures huref reads, and how it reads one of them."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from huref.cli.options import echo, json_option, print_json
from huref.files import as_path

if TYPE_CHECKING:
    from huref.architecture.resolved import ResolvedBlock

WIDE = 10**6  # of a line of YAML, so that it is never wrapped


@click.group()
def layouts() -> None:
    """Show how architectures are read.

    A layout is a file that says how a family of models names and stores its tensors.
    """


@layouts.command("list")
@json_option
def list_layouts(as_json: bool) -> None:
    """List all layouts with their model types."""
    from huref.architecture.layout_files import load_layouts

    types = {layout.name: list(layout.model_types) for layout in load_layouts()}
    if as_json:
        rows = [{"name": name, "model_types": of} for name, of in types.items()]
        print_json({"layouts": rows})
        return
    width = max(map(len, types))
    for name, of in types.items():
        echo(f"{name:<{width}}  {', '.join(of)}")


@layouts.command()
@click.argument("name", metavar="MODEL|NAME")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a layout, or the layout of a model and the model's first block.

    A NAME is one that `huref layouts list` prints. A MODEL is a folder, a file of weights or a
    Hub id; write ./NAME for a folder that has a layout's name. The values of the layouts that it
    extends are filled in; each line ends with the layout that sets the value.
    """
    from huref.architecture.layout_files import layout_names

    if name in layout_names():
        if as_json:
            print_json({"layout": _layout_data(name)})
        else:
            echo("\n".join(_layout_lines(name)))
        return
    if "/" not in name and not as_path(name).exists():
        raise _unknown(name)
    from huref.architecture.reader import ModelReader
    from huref.loader.checkpoint import open_checkpoint

    reader = ModelReader(open_checkpoint(name))
    block = reader.resolve(0)
    if as_json:
        print_json({"layout": _layout_data(reader.layout.name), "block": asdict(block)})
    else:
        echo("\n".join([*_layout_lines(reader.layout.name), "---", *_block_lines(block)]))


def _unknown(name: str) -> Exception:
    """The error for a name that is neither a layout's nor a model's."""
    from huref.architecture.layout_files import layout_names, load_layouts
    from huref.errors import ModelNotFoundError

    reading = [layout.name for layout in load_layouts() if name in layout.model_types]
    if reading:
        advice = f"models of this model_type are read by {', '.join(reading)}"
    elif near := difflib.get_close_matches(name, layout_names()):
        advice = f"did you mean {', '.join(near)}?"
    else:
        advice = "huref layouts list prints all layouts"
    return ModelNotFoundError(f"there is no layout, folder or file '{name}'", advice=advice)


def _layout_data(name: str) -> dict[str, Any]:
    """A layout as JSON: its values, and by dotted key the layout that sets each of them."""
    from huref.architecture.layout_files import Traced, read_chain, trace_layout

    origins: dict[str, str] = {}

    def values(tree: Any, path: str) -> Any:
        if isinstance(tree, Traced):
            origins[path] = tree.origin
            return tree.value
        return {key: values(inner, f"{path}.{key}" if path else key) for key, inner in tree.items()}

    plain = values(trace_layout(name), "")
    extends = [base for base, _ in reversed(read_chain(name)[:-1])]
    return {"name": name, "extends": extends, "values": plain, "origins": origins}


def _layout_lines(name: str) -> Iterator[str]:
    """A layout as YAML; a comment on each line names the layout that sets the value."""
    from huref.architecture.layout_files import Traced, read_chain, trace_layout

    def render(tree: Any) -> Any:
        if isinstance(tree, Traced):
            return f"{_flow(tree.value)}  # {tree.origin}"
        return {key: render(inner) for key, inner in tree.items()}

    chain = " extends ".join(base for base, _ in reversed(read_chain(name)))
    yield f"# {chain}"
    yield from _lines(render(trace_layout(name)))


def _block_lines(block: "ResolvedBlock") -> Iterator[str]:
    """A block as YAML; of one role's tensors, the first is named and their number given."""
    from huref.architecture.resolved import Stored

    def render(value: Any) -> Any:
        if isinstance(value, Stored):
            number = {"tensors": len(value.names)} if len(value.names) > 1 else {}
            return _flow({"name": value.name, "shape": list(value.shape), **number})
        if is_dataclass(value):
            return {field.name: render(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, Mapping) and value:
            return {key: render(inner) for key, inner in value.items()}
        return _flow(list(value) if isinstance(value, tuple) else value)

    yield from _lines(render(block))


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=WIDE)
    return str(text).removesuffix("...\n").strip()


def _lines(tree: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Nested mappings, whose leaves are text already, as lines of YAML."""
    for key, inner in tree.items():
        if isinstance(inner, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(inner, indent + "  ")
        else:
            yield f"{indent}{key}: {inner}"
