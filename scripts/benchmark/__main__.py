"""Commands of `python -m scripts.benchmark`."""

from scripts import run_command

COMMANDS = {
    "loader": ("loader", "bytes, requests, seconds and memory to fingerprint a 7B model on a Hub"),
    "speed": ("speed", "seconds, CPU seconds and memory of commands, as ratios within one run"),
    "lineage": ("lineage", "time and memory of a lineage table of many records"),
    "registry": (
        "registry.run",
        "sketches, stores and `huref identify`; docs/measured/registry.md",
    ),
    "fleet": (
        "fleet",
        "`huref fleet` against a Hub with faults and limits; docs/measured/fleet.md",
    ),
    "fleet-estimate": (
        "fleet_estimate",
        "estimated cost of measuring 100,000 models of the Hub",
    ),
}

if __name__ == "__main__":
    run_command("benchmark", COMMANDS)
