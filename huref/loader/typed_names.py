"""What a user typed or pasted in place of a model's name, turned into the name.

Command lines of the tools that people download and run models with, lines of code and of settings,
and links are read as the model that they name; quotation marks, separators of Windows, invisible
characters and the punctuation of a sentence are taken out.
"""

import re

from huref.errors import ModelNotFoundError

_COMMAND = re.compile(
    r"\$?\s*(?P<tool>(?:hf|huggingface-cli) download|git (?:lfs )?clone|vllm serve"
    r"|mlx_lm\.\w+ --model|ollama (?:run|pull|show)|llama-(?:cli|server) (?:-hf|--hf-repo)"
    r"|docker model (?:run|pull)|lms get)\s+"
    r"(?P<name>[^\s-]\S*)(?P<rest>(?:\s+\S+)*)"
)
# Where else a name stands: an option of a command, a line of code or of settings, a link, an
# address for git over SSH, and the name of a folder in the Hub's cache.
_PLACES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:.*\s)?(?:--model(?:[-_](?:id|path|name))?|--hf-repo|--repo-id|-hfr?|-m)[ =]+"
        r"(?P<name>[^\s-]\S*)(?:\s.*)?",
        r".*\bfrom_pretrained\(\s*(?:\w+\s*=\s*)?(?P<name>['\"][^'\"]+['\"]).*",
        r"(?:export )?\w*(?:model|MODEL)\w*(?:=|: |\s=\s)\s*(?P<name>[^\s-]\S*)",
        r"\[[^\]]*\]\((?P<name>[^()\s]+)\)",
        r"(?:ssh://)?git@(?:hf\.co|huggingface\.co)[:/](?P<name>\S+?)(?:\.git)?",
    )
)
_CACHED = re.compile(r"models--(?P<owner>[^/\\]+?)--(?P<name>[^/\\]+)")
_OF_WINDOWS = re.compile(r"(?P<owner>[\w.-]+)\\(?P<name>[\w.-]+)")
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\u00ad"
_QUOTES = {"'": "'", '"': '"', "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "<": ">"}
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,20})://(?P<rest>.*)")
# Files that lie beside a model's weights; whoever names one means the model.
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "adapter_config.json", "params.json", "model_index.json",
    "Modelfile",
)  # fmt: skip
INDEX = ".index.json"


def plain_name(typed: str) -> str:
    """The model's name in what was typed: without quotation marks or the command around it."""
    name = typed.strip().strip(_INVISIBLE).strip().rstrip(",;")
    while len(name) > 2 and _QUOTES.get(name[0]) == name[-1]:
        name = name[1:-1].strip()
    if match := _COMMAND.fullmatch(name):
        name = _of_command(match)
    elif match := next(filter(None, (place.fullmatch(name) for place in _PLACES)), None):
        name = plain_name(match["name"])
    if re.match(r"hf:(?!//)", name):
        name = f"hf://{name.removeprefix('hf:')}"
    for other in (_CACHED, _OF_WINDOWS):
        if match := other.fullmatch(name):
            name = f"{match['owner']}/{match['name']}"
    if "." in name[-1:] and not name.startswith("."):
        name = name.rstrip(".")
    return name.rstrip("/") if re.fullmatch(r"[\w.-]+/[\w.-]+/+", name) else name


def _of_command(match: re.Match[str]) -> str:
    name = plain_name(match["name"])
    if match["tool"].startswith("ollama") and not re.match(r"(?:https?://)?hf\.co/", name):
        return f"ollama:{name}"
    if match["tool"].startswith("git"):
        return name.removesuffix("/").removesuffix(".git")
    revision = re.search(r"--revision[ =](?P<revision>\S+)", match["rest"])
    return f"{name}@{revision['revision']}" if revision and "@" not in name else name


def is_companion(file: str) -> bool:
    """Whether a file's name is that of settings, a tokenizer or an index beside weights."""
    return file in COMPANIONS or file.endswith(INDEX)


def refuse_address(name: str) -> None:
    """Raise ModelNotFoundError for the address of a place from which huref does not read."""
    match = _ADDRESS.fullmatch(name)
    if match is None:
        return
    if match["scheme"].lower() in ("http", "https") and re.search(r"/v\d+/?$", match["rest"]):
        raise ModelNotFoundError(
            "it is the address of an endpoint, which gives no weights",
            model=name,
            advice="use 'huref probe' for a model behind an endpoint",
        )
    raise ModelNotFoundError(
        "it is an address from which huref does not read; it reads the Hugging Face Hub's",
        model=name,
        advice="download the model and give its folder, or give its org/name on the Hub",
    )
