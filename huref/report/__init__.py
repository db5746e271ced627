"""What people look at: lineage trees, heat maps and the report, each with its dogs."""
