"""Maps of a registry: its families of related models, as a page or a picture."""
