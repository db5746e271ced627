"""adapter_config.json: how an adapter's factors are scaled, and what huref cannot merge."""

import math
from collections.abc import Mapping
from typing import Any

from huref.errors import CheckpointError, UnsupportedModelError
from huref.loader.sources.name_patterns import NamePatterns, PatternError

MERGE_FIRST = "merge it with PEFT's merge_and_unload and give the merged model"
GIVE_BASE = "give its base, whose weights it leaves as they are; PEFT has no merged form of it"
KINDS = ("LORA", "TRAINABLE_TOKENS", "ADALORA", "LOHA", "LOKR", "VERA", "IA3", "LN_TUNING")
# Types that PEFT cannot merge: prompts, and modules that compute beside those of the base.
UNMERGEABLE = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE",
    "ADAPTION_PROMPT", "XLORA", "POLY", "LILY", "SHADOW",
)  # fmt: skip
# PEFT's initialisations that take a part of the base's weights into the adapter. The first two are
# computed from the weights alone, so that what was taken out can be taken out again.
PISSA, OLORA = "pissa", "olora"
UNKNOWN_STARTS = ("corda", "loftq", "lora_ga")
KNOWN_STARTS = ("eva", "gaussian", "orthogonal", "mica", "true", "false", "none")
# Settings of LoRA variants whose modules compute something else than W + s B A.
VARIANTS = (
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config", "arrow_config",
    "layer_replication", "monteclora_config",
)  # fmt: skip
MOST_PATTERNS = 10_000


class PeftSettings:
    """The settings of a LoRA adapter in PEFT's adapter_config.json."""

    def __init__(self, settings: Mapping[str, Any]):
        self._settings = settings
        self._alphas = self._patterns("alpha_pattern")
        # AdaLoRA's has a list for each tensor: which of its ranks were kept.
        self._ranks = NamePatterns({}) if self.kind == "ADALORA" else self._patterns("rank_pattern")
        self._require_known()

    @property
    def kind(self) -> str:
        """peft_type."""
        return str(self._settings.get("peft_type") or "LORA").upper()

    def _require_known(self) -> None:
        kind = self.kind
        if kind not in KINDS:
            raise UnsupportedModelError(
                f"adapters of type {kind[:40]} cannot be read, only {', '.join(KINDS)}",
                advice=GIVE_BASE if kind in UNMERGEABLE else MERGE_FIRST,
            )
        start = self.start
        if start.startswith(UNKNOWN_STARTS):
            raise UnsupportedModelError(
                f"the adapter was initialised with {start!r}, which takes a part of the base into "
                "the adapter that its files do not state",
                advice=MERGE_FIRST,
            )
        for variant in VARIANTS:
            if self._settings.get(variant):
                raise UnsupportedModelError(
                    f"the adapter's {variant} makes it more than a sum of low-rank matrices",
                    advice=MERGE_FIRST,
                )
        if start not in KNOWN_STARTS and not start.startswith((PISSA, OLORA)):
            raise UnsupportedModelError(
                f"the adapter's initialisation {start!r} is not known; it may change the base",
                advice=MERGE_FIRST,
            )

    @property
    def start(self) -> str:
        """init_lora_weights in lower case."""
        return str(self._settings.get("init_lora_weights", True)).lower()

    @property
    def with_tokens(self) -> bool:
        """Whether rows of embeddings were trained."""
        return bool(self._settings.get("trainable_token_indices"))

    def _patterns(self, key: str) -> NamePatterns:
        """The values of patterns of module names, in PEFT's sense."""
        table = self._settings.get(key) or {}
        if not isinstance(table, dict) or len(table) > MOST_PATTERNS:
            raise CheckpointError(f"its {key} is not a mapping of patterns")
        try:
            return NamePatterns(table)
        except PatternError as error:
            raise CheckpointError(
                f"its {key} has a name that is no regular expression of modules: {error}",
                advice=MERGE_FIRST,
            ) from error

    def scale(self, module: str, rank: int) -> float:
        """What the product of a module's factors is multiplied by."""
        alpha = self._find("alpha_pattern", self._alphas, module, "lora_alpha", 8)
        if self.kind != "LORA":
            self.scale_of_kind("LORA", module, rank)  # says that the weights are another kind's
        self._require_rank(module, self._find("rank_pattern", self._ranks, module, "r", rank), rank)
        number = _number(alpha)
        if number is None or rank <= 0:
            raise CheckpointError(
                f"lora_alpha is {repr(alpha)[:60]} for '{module}' and the rank is {rank}"
            )
        return number / (math.sqrt(rank) if self._flag("use_rslora") else rank)

    def _flag(self, key: str) -> bool:
        """A setting that is true or false; PEFT would take the text "false" for true."""
        value = self._settings.get(key)
        if value is not None and type(value) is not bool:
            raise CheckpointError(f"its {key} is {value!r:.60}, which is neither true nor false")
        return bool(value)

    def scale_of_kind(self, kind: str, module: str, rank: int | None) -> float:
        """What the delta of a module is multiplied by in an adapter of another kind than LoRA.

        Args:
            kind: the kind, by its tensors.
            module: the module's name.
            rank: of its factors; None where they do not show it.
        """
        if kind != self.kind:
            raise CheckpointError(
                f"it says peft_type {self.kind[:40]}, but its weights are those of {kind}",
                advice="give the adapter_config.json that was saved with the weights",
            )
        if kind in ("VERA", "IA3"):
            return 1.0
        if kind == "ADALORA":
            stated = self._settings.get("init_r", 12)
            if not self._settings.get("rank_pattern"):
                self._require_rank(module, stated, rank)
            alpha: Any = self._settings.get("lora_alpha", 8)
            number, first = _number(alpha), _number(stated)
            if number is not None and first is not None and first > 0:
                return (number if number > 0 else float(rank or 0)) / (first + 1e-5)
            raise CheckpointError(f"lora_alpha is {repr(alpha)[:60]} and init_r {stated!r:.60}")
        stated = self._find("rank_pattern", self._ranks, module, "r", 8)
        if rank is not None:
            self._require_rank(module, stated, rank)
        alpha = self._find("alpha_pattern", self._alphas, module, "alpha", 8)
        number, first = _number(alpha), _number(stated)
        if number is None or first is None or first <= 0:
            raise CheckpointError(
                f"alpha is {repr(alpha)[:60]} for '{module}' and the rank is {repr(stated)[:60]}"
            )
        return number / first

    def _require_rank(self, module: str, stated: object, rank: int | None) -> None:
        """Raise CheckpointError where a module's factors have another rank than is stated."""
        if stated != rank:
            raise CheckpointError(
                f"it states rank {repr(stated)[:60]} for '{module}', whose factors have rank "
                f"{rank}; the settings and the weights do not belong together",
                advice="give the adapter_config.json that was saved with the weights",
            )

    def _find(
        self, key: str, patterns: NamePatterns, module: str, otherwise: str, default: Any
    ) -> Any:
        """A setting of a module: that of the first pattern which fits, or the one for all."""
        try:
            return patterns.find(module, self._settings.get(otherwise, default))
        except PatternError as error:
            raise CheckpointError(f"its {key}: {error}", advice=MERGE_FIRST) from error

    def require_magnitudes(self, found: bool) -> None:
        """Raise CheckpointError where use_dora and the file's magnitudes contradict each other."""
        if found != self._flag("use_dora"):
            raise CheckpointError(
                f"it has use_dora = {self._settings.get('use_dora')!r}, but its weights "
                f"{'hold' if found else 'lack'} DoRA's magnitudes",
                advice="give the adapter_config.json that was saved with the weights",
            )

    def trained(self, key: str) -> list[str]:
        """The names of modules in `target_modules` or `modules_to_save`; [] for a pattern."""
        names = self._settings.get(key)
        if not isinstance(names, list) or self._settings.get("exclude_modules"):
            return []
        return [name for name in names if isinstance(name, str) and name]

    def token_ids(self, module: str) -> list[int]:
        """The token ids whose rows of an embedding were trained.

        Raises:
            CheckpointError: the settings do not give them.
        """
        ids = self._settings.get("trainable_token_indices") or self._settings.get("token_indices")
        if isinstance(ids, dict):
            fitting = [v for k, v in ids.items() if f".{module}".endswith(f".{k}")]
            ids = fitting[0] if fitting else None
        is_list = isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids)
        if not isinstance(ids, list) or not is_list or len(set(ids)) < len(ids):
            raise CheckpointError(
                f"its trainable_token_indices do not name the rows of '{module}'",
                advice="give the adapter_config.json that was saved with the weights",
            )
        return ids

    def is_target_parameter(self, name: str) -> bool:
        """Whether a parameter is one that target_parameters names."""
        targets = self._settings.get("target_parameters") or []
        if not isinstance(targets, list):
            raise CheckpointError("its target_parameters are not a list of names")
        return any(f".{name}".endswith(f".{target}") for target in targets)


class MlxSettings:
    """The settings of an adapter of MLX-LM or MLX-VLM.

    MLX-LM and MLX-VLM since 0.6 multiply by `scale`, MLX-LM's first releases by scale alpha / rank.
    MLX-VLM before 0.5 multiplied by `alpha`; 0.5 wrote the same settings and multiplied by
    alpha / rank.
    """

    start = "true"
    with_tokens = False

    def __init__(self, settings: Mapping[str, Any]):
        kind = settings.get("fine_tune_type", "lora")
        if kind not in ("lora", "dora", "full"):
            raise UnsupportedModelError(
                f"MLX adapters of type {kind!r} cannot be read",
                advice="fuse the adapter with mlx_lm.fuse",
            )
        self._settings = settings

    def scale(self, module: str, rank: int) -> float:
        """See PeftSettings."""
        values = self._settings.get("lora_parameters")
        if isinstance(values, dict):
            found = [values.get("scale"), *([values["alpha"]] if "alpha" in values else [])]
        else:
            found = [self._settings.get("alpha")]
        numbers = [number for value in found if (number := _number(value)) is not None]
        if len(numbers) < len(found) or rank <= 0:
            shown = " times ".join(repr(value)[:60] for value in found)
            raise CheckpointError(f"its scale is {shown} for '{module}' and the rank is {rank}")
        if not isinstance(values, dict):
            self._require_one_meaning(numbers[0], rank)
        return math.prod(numbers) / (rank if len(found) == 2 else 1)

    def _require_one_meaning(self, alpha: float, rank: int) -> None:
        """Raise CheckpointError for MLX-VLM's older settings, unless all releases agree on them."""
        if alpha and rank > 1:
            raise CheckpointError(
                f"MLX-VLM before 0.5 multiplies its delta by alpha ({alpha:g}), 0.5 by "
                f"alpha / rank ({alpha / rank:g}), and the settings do not say which trained it",
                advice='write the factor into adapter_config.json, such as "lora_parameters": '
                f'{{"scale": {alpha / rank:g}}}',
            )

    def scale_of_kind(self, kind: str, module: str, rank: int | None) -> float:
        """MLX has LoRA and DoRA only."""
        raise CheckpointError(f"'{module}' has tensors of {kind}, which MLX does not write")

    def require_magnitudes(self, found: bool) -> None:
        """Raise CheckpointError where the type and the file's magnitudes contradict each other."""
        kind = self._settings.get("fine_tune_type", "lora")
        if found != (kind == "dora" or self._settings.get("use_dora") is True):
            raise CheckpointError(
                f"it has fine_tune_type = {kind!r}, but its weights "
                f"{'hold' if found else 'lack'} DoRA's magnitudes",
                advice="give the adapter_config.json that was saved with the weights",
            )

    def trained(self, key: str) -> list[str]:
        """MLX's settings name no modules in this form."""
        return []

    def token_ids(self, module: str) -> list[int]:
        """MLX trains no single rows."""
        raise CheckpointError(f"its settings do not name the rows of '{module}'")

    def is_target_parameter(self, name: str) -> bool:
        """MLX has no target parameters; its stacked experts are modules."""
        return False


def _number(value: object) -> float | None:
    """A setting as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return None
    return number if math.isfinite(number) else None
