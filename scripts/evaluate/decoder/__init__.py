"""What a decoder is judged by: a regressor that knows the drawings, distances, sheets."""
