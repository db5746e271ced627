"""Coverage-guided fuzzing of every parser of huref, with the reference readers as oracles."""
