"""Public models from the package index, children of them made here, and a ladder of sizes."""
