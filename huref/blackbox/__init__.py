"""Hidden size, output projection and origin of a served model, from its log-probabilities."""
