"""Commands of `python -m scripts.benchmark`."""

from scripts import run_command

COMMANDS = {
    "loader": ("loader", "bytes, requests, seconds and memory of a 7B model on a Hub"),
    "lineage": ("lineage", "time and memory of a table of many records"),
    "registry": ("registry.run", "sketches, stores and identify; docs/measured/registry.md"),
    "fleet": ("fleet", "a fleet against a Hub that limits and fails; docs/measured/fleet.md"),
    "fleet-estimate": (
        "fleet_estimate",
        "what a hundred thousand models of the Hub would take",
    ),
}

if __name__ == "__main__":
    run_command("benchmark", COMMANDS)
