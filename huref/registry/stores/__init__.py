"""The engines that keep a registry: a folder, or LanceDB; the URI says which."""

from pathlib import Path

from huref.errors import RegistryError
from huref.recipe import Recipe
from huref.registry.store import Store


def create_store(uri: str, recipe: Recipe) -> Store:
    """Create an empty registry for entries of one recipe.

    Args:
        uri: a folder that does not exist or is empty; or, with huref[lance], a folder or an
            address in an object store that ends in ".lance", or "lance://folder".
        recipe: of all its entries.

    Raises:
        RegistryError: something is there already, or it cannot be written.
    """
    if address := _lance_address(uri):
        from huref.registry.stores.lance import LanceStore

        return LanceStore.create(address, recipe)
    from huref.registry.stores.folder import FolderStore

    return FolderStore.create(Path(uri).expanduser(), recipe)


def open_store(uri: str) -> Store:
    """Open a registry that `create_store` made.

    Raises:
        RegistryError: there is none, or it is damaged.
    """
    if address := _lance_address(uri):
        from huref.registry.stores.lance import LanceStore

        return LanceStore.open(address)
    from huref.registry.stores.folder import FolderStore

    return FolderStore.open(Path(uri).expanduser())


def _lance_address(uri: str) -> str | None:
    """Where a LanceDB lies, or None for a folder of huref's own."""
    if uri.startswith("lance://"):
        return uri.removeprefix("lance://")
    if uri.rstrip("/").endswith(".lance"):
        return uri
    if "://" in uri:
        raise RegistryError(
            f"{uri}: a registry is a folder, or a LanceDB whose name ends in .lance"
        )
    return None
