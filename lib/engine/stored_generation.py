"""Part P's generations: self-refinement and best-of-N, every generated token kept in the store."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import PreTrainedModel

from lib.engine.allocator import give_back
from lib.engine.computed_by import computed_by, sources_digest
from lib.engine.elsewhere import Elsewhere, Memory, Settings, Work, shown
from lib.engine.generation import continuation_nll, generate
from lib.engine.interventions import Plan
from lib.model.loading import load_model, model_folder
from lib.store import digest

SOURCES = sources_digest("lib.engine.generation")
ROUND = 5  # samples of each prompt that are generated together


class Judge:
    """An unmodified model that scores texts; the store keeps every score under its fingerprint and how it computes.

    `elsewhere` computes what the store does not have, in other processes that hold the same model.
    """

    def __init__(self, run: Any, model: PreTrainedModel, fingerprint: str, elsewhere: Elsewhere | None = None) -> None:
        self.model, self.store, self.elsewhere = model, run.store, elsewhere
        self.device = torch.device(run.setup["device"])
        self.dtype = run.setup["parameters"]["dtype"]
        self.identity = [self.device.type, *computed_by(SOURCES, self.device), fingerprint, self.dtype]

    def nll(self, texts: ArrayLike, n_scored: int) -> np.ndarray:
        """Negative log-likelihoods of the last `n_scored` tokens of each row, float64 [B, n_scored]."""
        return self.nlls([texts], n_scored)[0]

    def nlls(self, several: Sequence[ArrayLike], n_scored: int) -> list[np.ndarray]:
        """`nll` of several texts."""
        texts = [np.ascontiguousarray(own, dtype=np.int32) for own in several]
        keys = [digest("continuation", *self.identity, own, n_scored) for own in texts]
        found = self._had(
            keys,
            lambda i: continuation_nll(self.model, texts[i], n_scored),
            lambda i: self._work("judgements", keys[i], {"n_scored": n_scored}, texts[i]),
        )
        return [nll.astype(np.float64) for nll in found]

    def ppl(self, texts: ArrayLike, n_scored: int) -> np.ndarray:
        """PPL of the last `n_scored` tokens of each row, float64 [B]."""
        return self.ppls([texts], n_scored)[0]

    def ppls(self, several: Sequence[ArrayLike], n_scored: int) -> list[np.ndarray]:
        """`ppl` of several texts."""
        return [np.exp(nll.mean(axis=1)) for nll in self.nlls(several, n_scored)]

    def _had(
        self, keys: Sequence[str], here: Callable[[int], np.ndarray], work: Callable[[int], Work]
    ) -> list[np.ndarray]:
        """The entries of `keys`, from the store, or computed `here` or as `work` elsewhere and kept."""
        found = {key: self.store.get(key) for key in keys}
        missing = [i for i, key in enumerate(keys) if found[key] is None]
        if missing and self.elsewhere is not None:
            works = [work(i) for i in missing]
            for number, entries in shown(self.elsewhere, works, works[0].kind):
                key = keys[missing[number]]
                found[key] = entries[key]
                self.store.put(key, entries[key])
        else:
            for i in missing:
                found[keys[i]] = here(i)
                give_back()
                self.store.put(keys[i], found[keys[i]])
        return [found[key] for key in keys]

    def _work(self, kind: str, key: str, settings: Settings, texts: np.ndarray) -> Work:
        """One call as plain data, for `computed`, which uses as many threads as this process does."""
        common = {"device": self.device.type, "dtype": self.dtype, "threads": torch.get_num_threads()}
        return Work(kind, (key,), common | dict(settings), {"texts": texts})


class Generator(Judge):
    """Generates with one run's model under a plan, and judges without one; what is in the store is not done again."""

    def __init__(self, run: Any, elsewhere: Elsewhere | None = None) -> None:
        super().__init__(run, run.model, run.setup["model"]["fingerprint"], elsewhere)
        self.backend = run.backend = run.setup["backend"]

    def continue_texts(
        self,
        texts: ArrayLike,
        n_new: int,
        plan: Plan,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> np.ndarray:
        """`n_new` tokens after each row of `texts` [B, L], int32 [B, n_new]; one seed for each row when sampling."""
        return self.continue_all([(texts, plan, seeds)], n_new, temperature)[0]

    def continue_all(
        self, several: Sequence[tuple[ArrayLike, Plan, Sequence[int] | None]], n_new: int, temperature: float = 0.0
    ) -> list[np.ndarray]:
        """`continue_texts` of several `(texts, plan, seeds)`."""
        asked = [(np.ascontiguousarray(texts, dtype=np.int32), plan, seeds) for texts, plan, seeds in several]

        def key(texts: np.ndarray, plan: Plan, seeds: Sequence[int] | None) -> str:
            kernel = self.backend if plan.needs_kernel else None
            about = (plan.key(), texts, n_new, repr(temperature), repr(seeds))
            return digest("generate", *self.identity, kernel, *about)

        def here(i: int) -> np.ndarray:
            texts, plan, seeds = asked[i]
            return generate(
                self.model,
                texts,
                n_new,
                plan,
                temperature=temperature,
                seeds=seeds,
                backend=self.backend,
                label=f"{'samples' if temperature else 'greedy texts'}, {len(plan.heads)} heads changed",
            )

        def work(i: int) -> Work:
            texts, plan, seeds = asked[i]
            settings: Settings = {
                "plan": plan.heads,
                "n_new": n_new,
                "temperature": temperature,
                "seeds": None if seeds is None else list(seeds),
                "backend": self.backend,
            }
            return self._work("texts", keys[i], settings, texts)

        keys = [key(*own) for own in asked]
        return self._had(keys, here, work)


def computed(model: PreTrainedModel, fingerprint: str, work: Work) -> dict[str, np.ndarray]:
    """The entries of the store, `{key: array}`, that `work` of another process' `Judge` or `Generator` asks for."""
    settings: Any = work.settings
    memory, setup = Memory(), {"parameters": settings, "model": {"fingerprint": fingerprint}, **settings}
    run = SimpleNamespace(model=model, store=memory, setup=setup)
    before = torch.get_num_threads()
    torch.set_num_threads(settings["threads"])
    try:
        if work.kind == "judgements":
            Judge(run, model, fingerprint).nll(work.arrays["texts"], settings["n_scored"])
        else:
            one = work.arrays["texts"], Plan(tuple(settings["plan"])), settings["seeds"]
            Generator(run).continue_all([one], settings["n_new"], settings["temperature"])
    finally:
        torch.set_num_threads(before)
    return memory.entries


def second_judge(run: Any) -> Judge | None:
    """The run's second judge, None where the set-up names none."""
    about = run.setup["judge"]
    if about is None:
        return None
    folder = model_folder(about["place"], "judge")
    model = load_model(folder, run.setup["parameters"]["dtype"], run.setup["device"])
    elsewhere = run.elsewhere(name=about["place"], fingerprint=about["fingerprint"])
    return Judge(run, model, about["fingerprint"], elsewhere)


def refine(
    generator: Generator, prompts: np.ndarray, plans: Sequence[Plan], n_new: int, iterations: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Greedy text appended `iterations` times: `(texts [B, P + iterations · n_new], PPLs [iterations, B])` by plan.

    Greedy text is the same wherever it is interrupted, and so are the scores of its tokens: it is written in one go
    and judged once.
    """
    written = generator.continue_all([(prompts, plan, None) for plan in plans], n_new * iterations)
    texts = [np.concatenate([prompts, new], axis=1) for new in written]
    return list(zip(texts, growing_ppls(generator, texts, n_new, iterations), strict=True))


def growing_ppls(judge: Judge, several: Sequence[np.ndarray], n_new: int, iterations: int) -> list[np.ndarray]:
    """`growing_ppl` of several texts."""
    return [
        np.stack([np.exp(nll[:, : n_new * k].mean(axis=1)) for k in range(1, iterations + 1)])
        for nll in judge.nlls(several, n_new * iterations)
    ]


def growing_ppl(judge: Judge, texts: np.ndarray, n_new: int, iterations: int) -> np.ndarray:
    """PPL of the first n_new, 2 · n_new, … of the last `iterations · n_new` tokens of each row, [iterations, B]."""
    return growing_ppls(judge, [texts], n_new, iterations)[0]


def sample(
    generator: Generator,
    prompts: np.ndarray,
    plans: Sequence[Plan],
    n_new: int,
    n_samples: int,
    temperature: float,
    seed: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """By plan, PPL of `n_samples` samples for each prompt, float64 [B, n_samples], and tokens [B, n_samples, n_new].

    The seed of a sample depends on its prompt and number alone, so that all conditions draw alike and more samples
    leave the first ones as they are. They are drawn in rounds of `ROUND`, as many as were published.
    """
    sizes = [min(ROUND, n_samples - start) for start in range(0, n_samples, ROUND)]
    asked = []
    for plan in plans:
        for number, size in enumerate(sizes):
            places = [(prompt, number * ROUND + i) for prompt in range(len(prompts)) for i in range(size)]
            asked.append((np.repeat(prompts, size, axis=0), plan, [sample_seed(seed, *place) for place in places]))
    written = generator.continue_all(asked, n_new, temperature)
    whole = [np.concatenate([rows, new], axis=1) for (rows, *_), new in zip(asked, written, strict=True)]
    ppls = generator.ppls(whole, n_new)
    n, found = len(sizes), []
    for start in range(0, len(asked), n):
        own = zip(ppls[start : start + n], written[start : start + n], sizes, strict=True)
        rounds = [(ppl.reshape(-1, size), new.reshape(-1, size, n_new)) for ppl, new, size in own]
        ppl, tokens = (np.concatenate(parts, axis=1) for parts in zip(*rounds, strict=True))
        found.append((ppl, tokens))
    return found


def sample_seed(seed: int, prompt: int, number: int) -> int:
    """The seed of a prompt's sample: round after round of `ROUND` samples, each with seeds of its own.

    A generator on the CPU heeds 32 bits of its seed; within one `seed`, those differ for 4 million prompts and 1,000
    samples of each.
    """
    n_round, place = divmod(number, ROUND)
    return seed * 1_000_003 + n_round * 20_000_003 + prompt * ROUND + place


def sample_ppl(judge: Judge, prompts: np.ndarray, several: Sequence[np.ndarray]) -> list[np.ndarray]:
    """PPL under another judge of samples [B, n_samples, n_new] after `prompts` [B, P], float64 [B, n_samples] each."""
    n_prompts, n_samples, n_new = several[0].shape
    starts = np.repeat(prompts, n_samples, axis=0)
    whole = [np.concatenate([starts, tokens.reshape(-1, n_new)], axis=1) for tokens in several]
    return [ppl.reshape(n_prompts, n_samples) for ppl in judge.ppls(whole, n_new)]


def decode(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> str:
    return tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
