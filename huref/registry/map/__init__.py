"""A registry drawn as a map of lineages."""
