"""What huref and other methods say about attacked copies, framed models and their sources."""
