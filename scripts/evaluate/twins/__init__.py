"""Descent or a shared initialisation: the test on families that were trained for it."""
