"""The public functions, one a module: fingerprint, compare, check; and how a model is opened."""
