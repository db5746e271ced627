"""How well people tell dogs apart: a page that asks, and the score of what they answered."""
