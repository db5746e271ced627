"""Which files of a repository hold its weights: those that transformers loads.

Names that transformers knows come first, in its order. Of an index it takes the files alone: all
their tensors, and of a tensor in several files the last file's. Files of other names are read
where there is none of these, since other programs load them.
"""

import fnmatch
import re
from collections.abc import Iterable

from huref.errors import CheckpointError
from huref.loader.look_around import explain_no_weights
from huref.loader.ranges import is_plain_name
from huref.loader.repository import Repository, part_names, read_json
from huref.loader.stored_tensors import StoredTensors

INDEXES = ("*.safetensors.index.json", "*.bin.index.json")
# In order of preference: a repository often has the same weights in two formats.
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
NOT_THE_MODEL = (
    "adapter_*", "adapters.safetensors", "consolidated*", "training_args*", "optimizer*",
    "scheduler*", "rng_state*", "scaler*", "random_states*", "trainer_state*", "mmproj*",
    "value_head*", "v_head*", "*_states.pt", "imatrix*", "openvino_*", "onnx*", "sampler*",
    "tokenizer*", "generation*",
    "params_shard_*",
)  # fmt: skip
WHOLE = ("model.safetensors", "pytorch_model.bin", "weights.safetensors")
# What transformers looks for, in its order.
STANDARD = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # fmt: skip
INDEX = ".index.json"
MOST_SHARDS = 1000  # that an index names; their headers are read
_SHARD = re.compile(r"(?P<stem>.*?)[-_.]?(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\..+)")
_VARIANT = re.compile(
    r"(?P<stem>model|pytorch_model|weights)[.-](?P<variant>[A-Za-z0-9_]+)(?P<end>\.\w+)"
)


def has_weights(repository: Repository) -> bool:
    """Whether the top of a repository holds files of weights in safetensors or torch's format."""
    return any(
        "/" not in name
        and any(fnmatch.fnmatch(name.lower(), p) for p in WEIGHTS)
        and not any(fnmatch.fnmatch(name, p) for p in NOT_THE_MODEL)
        for name in repository.files
    )


def open_stored(repository: Repository, named: object = None) -> StoredTensors:
    """The weights of a Hugging Face repository, or of the one file that the user named.

    Args:
        repository: the repository.
        named: the file of weights or the index that config.json names (`transformers_weights`).

    Raises:
        CheckpointError: there are no weights, a shard is missing, an index names a file outside
            the repository, or the folder holds several variants of the weights.
    """
    if repository.chosen is not None:
        return StoredTensors(repository, part_names(repository.chosen, repository.files))
    top = [
        name
        for name in repository.files
        if "/" not in name and not any(fnmatch.fnmatch(name, p) for p in NOT_THE_MODEL)
    ]
    if (standard := _standard(repository, named)) is not None:
        if not standard.endswith(INDEX):
            return StoredTensors(repository, [standard])
        ending = standard.removesuffix(INDEX).rpartition(".")[2]
        weights = sorted(fnmatch.filter(top, f"*.{ending}"))
        return _open_indexed(repository, standard, weights)
    for number, pattern in enumerate(WEIGHTS):
        weights = sorted([name for name in top if fnmatch.fnmatch(name.lower(), pattern)])
        indexes = fnmatch.filter(top, INDEXES[number]) if number < len(INDEXES) else []
        if indexes:
            return _open_indexed(repository, min(indexes, key=lambda n: (len(n), n)), weights)
        if weights:
            return StoredTensors(repository, _select(repository, weights))
    raise explain_no_weights(repository)


def _standard(repository: Repository, named: object) -> str | None:
    """The file of weights or the index that transformers loads; None where it finds none.

    Raises:
        CheckpointError: another one lies beside it that other programs load in its place.
    """
    found = [name for name in STANDARD if name in repository.files]
    if isinstance(named, str):
        if not is_plain_name(named) or named not in repository.files:
            raise CheckpointError(
                f"its transformers_weights is '{named[:200]}', and there is no such file",
                model=repository.model,
                file="config.json",
                advice="download that file, too",
            )
        rivals = [name for name in found if name != named and ".safetensors" in name]
        found = [named, *rivals]
    elif found[:2] == list(STANDARD[:2]) and not _is_left_over(repository, STANDARD[1]):
        rivals = [STANDARD[1]]
    else:
        rivals = []
    if rivals:
        raise CheckpointError(
            f"it holds weights twice, '{found[0]}' and '{rivals[0]}', of which transformers loads "
            "the first and other programs the second",
            model=repository.model,
            advice="move one of them away",
        )
    return found[0] if found else None


def _is_left_over(repository: Repository, index: str) -> bool:
    """Whether the index beside a whole file names no further files, or some that are missing."""
    try:
        files = set(_read_weight_map(repository, index).values())
    except CheckpointError:
        return True
    return not files - {STANDARD[0]} or not files <= repository.files.keys()


def _open_indexed(repository: Repository, index: str, weights: list[str]) -> StoredTensors:
    """The weights that an index lists, or those that are there in its place."""
    try:
        file_of = _read_weight_map(repository, index)
    except CheckpointError:
        if not weights:
            raise
        file_of = {}
    _refuse_outside(repository, index, file_of)
    if not file_of and weights:
        return StoredTensors(repository, _select(repository, weights))
    absent = sorted(set(file_of.values()) - repository.files.keys())
    if not absent:
        return _open_corrected(repository, index, file_of, weights)
    others = [name for name in weights if name not in file_of.values()]
    missing = CheckpointError(
        f"it names '{absent[0]}', which is missing",
        model=repository.model,
        file=index,
        advice="download that file, too"
        if len(absent) == 1
        else f"download the {len(absent)} missing files, too",
    )
    candidates = others or weights
    if not candidates:
        raise missing
    try:
        stored = StoredTensors(repository, _select(repository, candidates))
    except CheckpointError as error:
        raise missing from error
    # A set of its own may name some tensors otherwise, as a tied head, but has as many.
    if others and not _is_part_of(stored, file_of):
        return stored
    if all(name in stored.names for name in file_of):
        return stored
    raise missing


def _open_corrected(
    repository: Repository, index: str, file_of: dict[str, str], weights: list[str]
) -> StoredTensors:
    """The tensors of an index at the places that the files state, and those that it lacks.

    Of a tensor in several of its files the last one's is loaded. Shards that belong to the same
    set and that it does not name add what no other file holds.

    Raises:
        CheckpointError: it names more files than any model has.
    """
    named = sorted(set(file_of.values()))
    stems = {match["stem"] for name in named if (match := _SHARD.fullmatch(name))}
    shards = [n for n in weights if (match := _SHARD.fullmatch(n)) and match["stem"] in stems]
    beside = sorted(n for n in shards if n not in named and _same_count(n, named))
    if len(named) + len(beside) > MOST_SHARDS:
        raise CheckpointError(
            f"it names {len(named) + len(beside)} files, more than huref looks into",
            model=repository.model,
            file=index,
            advice="save the model again in larger shards",
        )
    places: dict[str, str] = {}
    stored = StoredTensors(repository)
    stored.read_headers([*beside, *named])
    for file in [*beside, *named]:
        try:
            held = stored.names_in(file)
        except CheckpointError:
            if file in beside:
                continue
            raise  # a tensor in it may stand for one of another file
        places |= dict.fromkeys(held, file)
    stored.take_places(file_of | places)
    return stored


def _same_count(name: str, others: Iterable[str]) -> bool:
    """Whether a shard is of a set with as many shards as those of an index."""
    own = _SHARD.fullmatch(name)
    counts = {match["count"] for other in others if (match := _SHARD.fullmatch(other))}
    return own is not None and own["count"] in counts


def _is_part_of(stored: StoredTensors, file_of: dict[str, str]) -> bool:
    """Whether files hold only a small part of the tensors that an index lists."""
    held = sum(name in stored.names for name in file_of)
    return held < len(file_of) and len(stored.names) < 0.9 * len(file_of)


def _select(repository: Repository, weights: list[str]) -> list[str]:
    """The files with the whole model: one file, one set of shards, or one variant.

    Raises:
        CheckpointError: shards are missing, or there are several variants.
    """
    for whole in WHOLE:
        if whole in weights:
            return [whole]
    sets: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in weights:
        if match := _SHARD.fullmatch(name):
            key = (match["stem"], match["count"], match["end"])
            sets.setdefault(key, {})[int(match["number"])] = name
    complete = [
        [shards[n] for n in sorted(shards)]
        for (_, count, _), shards in sorted(sets.items())
        if len(shards) == int(count)
    ]
    if complete:
        return complete[0]
    for (stem, count, end), shards in sets.items():
        numbers = range(0 if 0 in shards else 1, int(count) + (0 not in shards))
        if absent := [n for n in numbers if n not in shards]:
            raise CheckpointError(
                f"of {count.lstrip('0')} shards {len(absent)} are missing, such as "
                f"'{stem}-{absent[0]:05}-of-{count}{end}'",
                model=repository.model,
                advice="download the missing shards, too",
            )
    variants = sorted(name for name in weights if _VARIANT.fullmatch(name))
    if len(variants) > 1 and len(variants) == len(weights):
        raise CheckpointError(
            f"the folder holds several variants of the weights ({', '.join(variants[:4])})",
            model=repository.model,
            advice=f"name one of them, such as {repository.model.rstrip('/')}/{variants[0]}",
        )
    return weights


def _read_weight_map(repository: Repository, index: str) -> dict[str, str]:
    weight_map = read_json(repository, index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError("it has no weight_map", model=repository.model, file=index)
    return {str(name): str(file) for name, file in weight_map.items()}


def _refuse_outside(repository: Repository, index: str, file_of: dict[str, str]) -> None:
    """Raise CheckpointError for an index that names a file outside the repository."""
    for file in set(file_of.values()):
        if not is_plain_name(file):
            raise CheckpointError(
                f"it names '{file}', which is outside the folder",
                model=repository.model,
                file=index,
            )
