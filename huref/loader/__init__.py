"""From a model's name to the tensors, configuration and vocabulary it holds, read lazily."""
