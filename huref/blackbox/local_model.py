"""A model on this machine as a source of outputs."""

import sys
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from huref.blackbox.prompts import order_ids
from huref.errors import HurefError
from huref.escape import terminal
from huref.progress import is_hidden

BATCH = 64  # prompts per forward pass


class LocalModel:
    """A model that transformers runs on this machine, in float32.

    Words of a prompt are mapped to token ids by a hash. No tokenizer is needed, because any
    sufficiently different prompts span the logit space.
    """

    absolute = True
    jitter = 0.0
    resolution = 0.0
    obstacle: str | None = None
    requests = 0
    requests_left: int | None = None

    def __init__(self, model: str):
        self.name = model
        try:
            from transformers import AutoModelForCausalLM
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise HurefError(
                "running a model needs transformers",
                advice="install it with: pip install 'huref[probe]'",
            ) from error
        if not sys.stderr.isatty():
            disable_progress_bar()
        name, _, revision = model.partition("@")
        try:
            self._model = AutoModelForCausalLM.from_pretrained(
                name, revision=revision or "main", dtype="float32", trust_remote_code=False
            ).eval()
        except (OSError, ValueError) as error:
            raise HurefError(f"transformers cannot load it ({error})", model=model) from error
        self.vocabulary = int(self._model.get_output_embeddings().weight.shape[0])

    def choose_ids(self, count: int, start: int = 0) -> NDArray[np.int64]:
        """See Source."""
        return order_ids(self.vocabulary)[start : start + count]

    def cost(self, prompts: int, tokens: int) -> int:
        """See Source. A local model takes no requests."""
        return 0

    def outputs(self, prompts: Sequence[str], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """See Source. Raises HurefError when a logit is not finite."""
        import torch

        words = [prompt.split() for prompt in prompts]
        values = np.empty((len(prompts), len(ids)))
        label = terminal(self.name)
        with tqdm(total=len(prompts), desc=label, leave=False, delay=2, disable=is_hidden()) as bar:
            for length in {len(prompt_words) for prompt_words in words}:
                same_length = [
                    i for i, prompt_words in enumerate(words) if len(prompt_words) == length
                ]
                for start in range(0, len(same_length), BATCH):
                    batch = same_length[start : start + BATCH]
                    tokens = [
                        [zlib.crc32(word.encode()) % self.vocabulary for word in words[i]]
                        for i in batch
                    ]
                    with torch.inference_mode():
                        logits = self._model(torch.tensor(tokens)).logits[:, -1]
                    values[batch] = logits.double().numpy()[:, ids]
                    bar.update(len(batch))
        if not np.isfinite(values).all():
            raise HurefError("its logits are not finite; the weights are broken", model=self.name)
        return values
