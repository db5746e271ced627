"""Backends that store a registry: a folder, or LanceDB; the URI decides which."""

from huref.errors import RegistryError
from huref.files import as_path
from huref.recipe import Recipe
from huref.registry.store import Store
from huref.registry.stores.catalogue import MADE_ALREADY, NO_REGISTRY


def create_store(uri: str, recipe: Recipe, require: str = "") -> Store:
    """Create an empty registry for entries of one recipe.

    Args:
        uri: a folder that does not exist or is empty; or, with huref[lance], a folder or an
            object store's URI whose name ends in ".lance", or "lance://folder".
        recipe: of all its entries.
        require: "signed" refuses unsigned entries; "" takes all.

    Raises:
        RegistryError: there is something at that URI already, or it cannot be written.
    """
    if address := _lance_address(uri):
        from huref.registry.stores.lance import LanceStore

        return LanceStore.create(address, recipe, require)
    from huref.registry.stores.folder import FolderStore

    return FolderStore.create(as_path(uri), recipe, require)


def open_store(uri: str) -> Store:
    """Open a registry that `create_store` made.

    Raises:
        RegistryError: there is no registry at that URI, or it is damaged.
    """
    if address := _lance_address(uri):
        from huref.registry.stores.lance import LanceStore

        return LanceStore.open(address)
    from huref.registry.stores.folder import FolderStore

    return FolderStore.open(as_path(uri))


def open_or_create(uri: str, recipe: Recipe) -> tuple[Store, bool]:
    """Open a registry, or create it where there is none: its folder is missing, empty or half-made.

    Returns:
        The registry, and whether it was created. Of several processes one creates it.

    Raises:
        RegistryError: something else is there, or it is damaged.
    """
    try:
        return open_store(uri), False
    except RegistryError as missing:
        if missing.what != NO_REGISTRY or "://" in uri:
            raise
    try:
        return create_store(uri, recipe), True
    except RegistryError as error:
        if error.what != MADE_ALREADY:
            raise
        return open_store(uri), False  # another process was faster


def _lance_address(uri: str) -> str | None:
    """The address of a LanceDB, or None for a folder registry."""
    if uri.startswith("lance://"):
        return uri.removeprefix("lance://")
    if uri.rstrip("/").endswith(".lance"):
        return uri
    if "://" in uri:
        raise RegistryError(
            "it is no registry",
            file=uri,
            advice="give a folder, or a LanceDB whose name ends in .lance",
        )
    return None
