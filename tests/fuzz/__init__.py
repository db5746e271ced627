"""Stored inputs of the fuzzer, replayed."""
