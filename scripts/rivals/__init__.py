"""Published fingerprints, implemented from their papers for comparison."""
