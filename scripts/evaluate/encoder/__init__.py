"""How the encoder is measured: codes to compare, pieces of work, figures and tables."""
