"""Commands of `python -m scripts.fuzz`."""

from scripts import run_command

COMMANDS = {
    "run": ("run", "fuzz for a given time; exits with 1 when an input fails"),
    "seeds": ("seeds", "write the seeds of tests/fuzz/seeds again"),
    "kill": (
        "kill",
        "kill -9 fleets, pages, attestations at random moments; nothing may be lost",
    ),
    "odd": ("odd_values", "replace every setting and tensor of stored models by odd ones"),
    "cover": (
        "cover",
        "what the last fuzzing reached of each file of the loader, by coverage.py",
    ),
}

if __name__ == "__main__":
    run_command("fuzz", COMMANDS)
