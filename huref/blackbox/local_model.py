"""A model on this machine as a source of outputs."""

import sys
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from huref.blackbox.prompts import order_ids
from huref.errors import HurefError

BATCH = 64  # prompts read at a time


class LocalModel:
    """A model's weights on this machine, run by transformers in float32.

    A prompt's words become token ids by a hash: no tokenizer is needed to fill the logit space.
    """

    absolute = True
    wobble = 0.0
    resolution = 0.0
    requests = 0
    room: int | None = None

    def __init__(self, model: str):
        self.name = model
        try:
            from transformers import AutoModelForCausalLM
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise HurefError(
                "running a model needs transformers; install it with: pip install 'huref[probe]'"
            ) from error
        if not sys.stderr.isatty():
            disable_progress_bar()
        name, _, revision = model.partition("@")
        try:
            self._model = AutoModelForCausalLM.from_pretrained(
                name, revision=revision or "main", dtype="float32", trust_remote_code=False
            ).eval()
        except (OSError, ValueError) as error:
            raise HurefError(f"{model}: transformers cannot load it ({error})") from error
        self.vocabulary = int(self._model.get_output_embeddings().weight.shape[0])

    def choose_ids(self, count: int, start: int = 0) -> NDArray[np.int64]:
        """See Source."""
        return order_ids(self.vocabulary)[start : start + count]

    def cost(self, prompts: int, tokens: int) -> int:
        """See Source: nothing is asked of anyone."""
        return 0

    def outputs(self, prompts: Sequence[str], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """See Source. Raises HurefError when the model gives no finite logits."""
        import torch

        words = [prompt.split() for prompt in prompts]
        values = np.empty((len(prompts), len(ids)))
        with tqdm(total=len(prompts), desc=self.name, leave=False, delay=2, disable=None) as bar:
            for length in {len(some) for some in words}:
                alike = [place for place, some in enumerate(words) if len(some) == length]
                for start in range(0, len(alike), BATCH):
                    places = alike[start : start + BATCH]
                    tokens = [
                        [zlib.crc32(word.encode()) % self.vocabulary for word in words[place]]
                        for place in places
                    ]
                    with torch.inference_mode():
                        logits = self._model(torch.tensor(tokens)).logits[:, -1]
                    values[places] = logits.double().numpy()[:, ids]
                    bar.update(len(places))
        if not np.isfinite(values).all():
            raise HurefError(f"{self.name}: its logits are not finite; the weights are broken")
        return values
