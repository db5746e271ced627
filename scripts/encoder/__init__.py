"""Ablations of the encoder's training. `huref train-encoder` trains the shipped encoder."""
