"""Opens a model by name and reads its configuration, vocabulary and tensors on demand."""
