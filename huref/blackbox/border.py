"""Find border inputs: prompts after which two next tokens are about equally probable.

At a low temperature the frequencies of the two tokens are the most sensitive sign of a change that
generated tokens can give: a logit that moves by the temperature moves them by about a quarter
(Chauvin et al., arXiv 2602.11083). The search uses the endpoint's own answers alone.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass

from huref.blackbox.endpoint import Endpoint
from huref.blackbox.prompts import make_prompts
from huref.blackbox.query import TokenQuery

INPUTS = 16  # border inputs that are watched
FEWEST = 6  # with fewer, the temperature is raised
SEARCH = 1200  # requests of a search at most
TEMPERATURES = (0.1, 0.3, 1.0)
SHARES = (0.6, 0.8, 1.0)  # of SEARCH that may be spent by the end of each temperature
WORDS = 2  # of a candidate
SAME = 64  # candidates at each temperature, where every answer is the same text
_AT_ONCE = 32  # candidates that are asked together
_CONFIRMATIONS = 6  # further answers to a candidate that gave two different ones
_MINORITY = 2  # least number of answers, of all eight, that are not the most frequent one
MOST_FAILURES = 0.2  # share of queries that may fail


@dataclass(frozen=True)
class Borders:
    """The result of a search.

    Attributes:
        prompts: the border inputs.
        temperature: at which they were found.
        tried: number of candidates.
        requests: number of requests.
        distinct: number of different answers to all candidates.
    """

    prompts: tuple[str, ...]
    temperature: float
    tried: int
    requests: int
    distinct: int


def sampled_query(prompt: str, temperature: float, repeat: str) -> TokenQuery:
    """A query for one sampled token, with a seed of its own for each repeat.

    Without a seed, llama-cpp-python samples the same token again.
    """
    seed = int.from_bytes(hashlib.sha256(f"{prompt}/{repeat}".encode()).digest()[:4], "big") >> 1
    return TokenQuery(prompt, repeat=repeat, temperature=temperature, seed=seed)


def find_borders(endpoint: Endpoint, visit: str, most: int = SEARCH) -> Borders:
    """Search for border inputs, with at most `most` requests.

    Args:
        endpoint: the endpoint.
        visit: distinguishes this search from others in the store.
        most: number of requests.
    """
    rungs = list(zip(TEMPERATURES, SHARES, strict=True))
    if endpoint.capabilities.greedy is False:  # it seems to ignore the temperature
        rungs = rungs[-1:]
    found: list[str] = []
    tried, spent = 0, 0
    answers_seen: set[str] = set()
    temperature = rungs[0][0]
    for temperature, share in rungs:
        first_here = tried
        while len(found) < INPUTS and spent + 2 <= share * most:
            if len(answers_seen) == 1 and tried - first_here >= SAME:
                break  # the rest of the budget would give the same text
            count = int(min(_AT_ONCE, (share * most - spent) // 2))
            prompts = make_prompts(count, "border", start=tried, words=WORDS)
            tried += count
            first = _sample(endpoint, prompts, temperature, 2, f"{visit}/search")
            spent += 2 * count
            answers_seen.update(text for texts in first.values() for text in texts)
            hits = [prompt for prompt, texts in first.items() if len(set(texts)) == 2]
            hits = hits[: int((most - spent) // _CONFIRMATIONS)]
            more = _sample(endpoint, hits, temperature, _CONFIRMATIONS, f"{visit}/confirm")
            spent += _CONFIRMATIONS * len(hits)
            for prompt in hits:
                texts = first[prompt] + more[prompt]
                if len(texts) - max(Counter(texts).values()) >= _MINORITY:
                    found.append(prompt)
        if len(found) >= FEWEST:
            break
    return Borders(tuple(found[:INPUTS]), temperature, tried, spent, len(answers_seen))


def _sample(
    endpoint: Endpoint, prompts: list[str], temperature: float, repeats: int, visit: str
) -> dict[str, list[str]]:
    queries = [
        sampled_query(prompt, temperature, f"{visit}/{i}")
        for prompt in prompts
        for i in range(repeats)
    ]
    texts: dict[str, list[str]] = {prompt: [] for prompt in prompts}
    answers = endpoint.ask_all(queries, "border inputs", MOST_FAILURES)
    for query, answer in zip(queries, answers, strict=True):
        if answer is not None:
            texts[query.prompt].append(answer.text)
    return texts
