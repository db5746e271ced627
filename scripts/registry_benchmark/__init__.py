"""The parts of scripts/benchmark_registry.py."""
