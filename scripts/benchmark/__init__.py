"""Time, memory and traffic of the loader, tables, registries and fleets."""
