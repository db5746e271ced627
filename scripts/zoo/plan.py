"""The plan of one model: its entry in the config, and what it depends on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.zoo.corpus import read_texts


@dataclass(frozen=True)
class Plan:
    """A model's name, the whole config, and the folder of the zoo."""

    name: str
    config: Mapping[str, Any]
    out: Path

    @property
    def spec(self) -> dict[str, Any]:
        """The model's entry in the config, completed by the defaults."""
        return {"parents": [], **self.config["defaults"], **self.config["models"][self.name]}

    @property
    def sources(self) -> list[str]:
        """Models that must be made first: the parents and, in distillation, the teacher."""
        spec = self.spec
        return [*spec["parents"], *([spec["teacher"]] if "teacher" in spec else [])]

    def of(self, parent: str) -> "Plan":
        """The plan of a parent."""
        return Plan(parent, self.config, self.out)

    def base(self) -> "Plan":
        """The plan of the base that is reached by following first parents."""
        parents = self.spec["parents"]
        return self.of(parents[0]).base() if parents else self

    def recipe(self) -> str:
        """Digest of everything in the config that the weights depend on, also through parents."""
        parts = {
            "spec": self.spec,
            "parents": [self.of(source).recipe() for source in self.sources],
            **{key: self.config[key] for key in ("domains", "held_out")},
        }
        if not self.spec["parents"]:
            architecture = self.config["architectures"][self.spec["architecture"]]
            parts["architecture"] = architecture
            parts["tokenizer"] = self.config["tokenizers"][architecture["tokenizer"]]
        elif "tokenizer" in self.spec:  # replaces the parent's vocabulary
            parts["tokenizer"] = self.config["tokenizers"][self.spec["tokenizer"]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def domain_texts(plan: Plan, name: str) -> tuple[str, ...]:
    """The texts of a domain in the config."""
    domain = plan.config["domains"][name]
    return read_texts(domain["kind"], tuple(domain["buckets"]), domain["megabytes"])
