"""Ablations of the encoder's training, which is `huref train-encoder`."""
