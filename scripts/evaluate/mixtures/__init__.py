"""Merges that mergekit makes, taken apart by huref and by a rival."""
