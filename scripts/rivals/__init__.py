"""Other fingerprints, written from their papers, to lay our figures beside theirs."""
