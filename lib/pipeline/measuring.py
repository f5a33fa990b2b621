"""What a section measures with: parameters, checked; the model and the tokens; the earlier sections' results."""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lib import ledger
from lib.errors import InputError
from lib.layout import build_root, used_keys
from lib.model import loading
from lib.params import BASE_PROFILE, RULES, check, load_profile
from lib.pipeline import children, sampling, workers
from lib.pipeline.locking import locked
from lib.results import io, provenance
from lib.store import Store, open_store

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lib.analysis.bootstrap import Resampler
    from lib.engine.elsewhere import Elsewhere
    from lib.engine.interventions import Plan
    from lib.engine.scoring import Evaluator


WITHOUT = "EXPERIMENT10_WITHOUT"  # names the sections that a redraw goes without


class Measuring:
    """One section's session, as far as its measuring cells use it; `lib.pipeline.run.Run` adds what drawing needs.

    `namespace` is the notebook's `globals()`: the names that are parameters are read from it and checked, before
    anything else happens. Raises `InputError` for a bad one.
    """

    def __init__(self, section: str, namespace: Mapping[str, Any], needs: Iterable[str] = ()) -> None:
        self.section = section
        sampling.enter(section)
        self.start = provenance.begin()
        self.profile = namespace.get("profile", BASE_PROFILE)
        load_profile(self.profile)
        self.parameters: dict[str, Any] = {k: check(k, namespace[k]) for k in RULES if k in namespace}
        self.folder = build_root() / self.profile
        self.data_folder = self.folder / "results" / "data"
        self.results: dict[str, Any] = {}
        self.origins: dict[str, dict[str, Any]] = {}
        self.backend = "none"
        without = os.environ.get(WITHOUT, "").split()
        for name in needs:
            if name in without:
                continue
            self.results[name] = self._earlier(name)

    def __getitem__(self, name: str) -> Any:
        return self.parameters[name]

    def _earlier(self, name: str) -> Any:
        path = io.section_path(self.data_folder, name)
        if not path.is_file():
            print(f"{self.section} needs {name}, which profile {self.profile} has not measured yet: running it")
            have_measured(name, self.profile)
        elif "EXPERIMENT10_PIPELINE" not in os.environ:
            print(f"{self.section} takes {name} from {os.path.relpath(path)}")
        record = io.read_json(path, "section")
        self.origins[name] = record["provenance"]
        return record["data"]

    @property
    def setup(self) -> dict[str, Any]:
        return self.results["setup"]

    @property
    def slug(self) -> str:
        return self.setup["model"]["slug"]

    @cached_property
    def store(self) -> Store:
        return open_store()

    @cached_property
    def tokens(self) -> np.ndarray:
        """Token ids that are scored, int32 [n_chunks, n_ctx]."""
        return self._array("tokens.npy")

    @cached_property
    def documents(self) -> np.ndarray:
        """The document of each of these tokens, int32 [n_chunks, n_ctx]."""
        return self._array("documents.npy")

    def _array(self, name: str) -> np.ndarray:
        path = self.data_folder / name
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            raise InputError(f"{path}: missing or damaged; run `make notebooks/setup PROFILE={self.profile}`") from None

    @cached_property
    def model(self) -> "PreTrainedModel":
        setup = self.setup
        folder = loading.model_folder(setup["parameters"]["model"])
        return loading.load_model(folder, setup["parameters"]["dtype"], setup["device"])

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        chosen = self.setup["parameters"]
        folder = loading.tokenizer_folder(chosen["tokenizer"], loading.model_folder(chosen["model"]))
        return loading.load_tokenizer(folder)

    def elsewhere(
        self, dtype: str | None = None, name: str | None = None, fingerprint: str | None = None
    ) -> "Elsewhere | None":
        """The run's workers with the section's model in `dtype`, or with another model; None where there are none."""
        pool = workers.pool(self.profile)
        if pool is None:
            return None
        from lib.engine.elsewhere import Source

        chosen, about = self.setup["parameters"], self.setup["model"]
        place = workers.place(name or chosen["model"])
        digest = fingerprint or about["fingerprint"]
        return pool.model(Source(place, digest, dtype or chosen["dtype"], self.setup["device"]))

    def evaluator(self, tokens: np.ndarray | None = None, dtype: str | None = None, start: int = 0) -> "Evaluator":
        """An `Evaluator` over `tokens` [n_chunks, n_ctx] from position `start` in `dtype`, by default the section's."""
        from lib.engine.scoring import Evaluator

        chosen = self.setup["parameters"]
        self.backend = self.setup["backend"]
        folder = loading.model_folder(chosen["model"])
        return Evaluator(
            loading.load_model(folder, dtype, self.setup["device"]) if dtype else self.model,
            self.tokens if tokens is None else tokens,
            self.store,
            model_key=self.setup["model"]["fingerprint"],
            dtype=dtype or chosen["dtype"],
            backend=chosen["backend"],
            start=start,
            elsewhere=self.elsewhere(dtype),
        )

    @property
    def quick(self) -> int:
        return self.setup["quick_chunks"]

    @property
    def full(self) -> int:
        return self.setup["full_chunks"]

    @property
    def heads(self) -> list[tuple[int, int]]:
        """All heads, `(layer, head)`."""
        shape = self.setup["model"]
        return [(layer, head) for layer in range(shape["n_layer"]) for head in range(shape["n_head"])]

    @property
    def rankable(self) -> list[tuple[int, int]]:
        """All heads but layer 0's."""
        return [place for place in self.heads if place[0] > 0]

    def resampler(self, chunks: int | list[int]) -> "Resampler":
        """The bootstrap over the first so many chunks, or over a list of them; one seed everywhere."""
        from lib.analysis.bootstrap import Resampler

        chosen = self.setup["parameters"]
        documents = self.documents[:chunks] if isinstance(chunks, int) else self.documents[chunks]
        return Resampler(len(documents), self.setup["n_ctx"], chosen["seed"], chosen["draws"], documents)

    def chunk_resampler(self) -> "Resampler":
        """The bootstrap over the full chunks, each a unit of its own."""
        from lib.analysis.bootstrap import Resampler

        chosen = self.setup["parameters"]
        return Resampler.by_chunk(self.full, self.setup["n_ctx"], chosen["seed"], chosen["draws"])

    @property
    def resampling(self) -> tuple[np.ndarray, int, int]:
        """Documents, seed and draws, for what resamples windows of the full tokens by itself."""
        chosen = self.setup["parameters"]
        return self.documents, chosen["seed"], chosen["draws"]

    @property
    def prompt_chunks(self) -> list[int]:
        """The chunks whose beginnings are P2's and P3's prompts."""
        from lib.analysis.windows import spread_out

        n = self["prompts"]
        return spread_out(self.full, n) if self["prompts_from"] == "spread" else list(range(n))

    @property
    def conditions(self) -> dict[str, int]:
        """`{name: number of linearized heads}` of Part P: baseline first."""
        return {"baseline": 0} | {f"relu_{n}": n for n in self.setup["relu_counts"]}

    def plan(self, n: int, mode: str = "relu") -> "Plan":
        """The first `n` heads of the ranking, linearized."""
        from lib.engine.interventions import Plan

        return Plan.of(mode, [tuple(head) for head in self.results["phases"]["ranking"][:n]])

    def describe(self, data: Mapping[str, Any]) -> None:
        """`finish` for the set-up, which describes the run itself."""
        self.results["setup"] = data
        self.finish(data)

    def finish(self, data: Mapping[str, Any]) -> None:
        """Writes the section's results; its drawing cells find them in `run.data`."""
        data = io.plain(data)
        self.results[self.section] = data
        chosen = self.setup["parameters"] | self.parameters
        record = {
            "section": self.section,
            "parameters": self.parameters,
            "data": data,
            "provenance": self.provenance(chosen),
        }
        self._write(io.section_path(self.data_folder, self.section), record, "section")
        store = open_store()
        ledger.write(used_keys(self.folder, self.section), store.used, self.known_seconds | store.seconds)

    def combined_provenance(self, names: Iterable[str]) -> dict[str, Any]:
        """Provenance of a file put together from earlier sections: their backends, and their times with this one's."""
        parts = [self.origins[name] for name in names]
        own = self.provenance()
        backends = sorted({part["backend"] for part in parts} - {"none"})
        times = [part["times"] for part in (*parts, own)]
        return own | {
            "backend": "+".join(backends) or "none",
            "parameters": {k: v for part in parts for k, v in part["parameters"].items()} | own["parameters"],
            "times": {
                "started": min(part["started"] for part in times),
                "seconds": round(sum(part["seconds"] for part in times), 2),
                "reused": round(sum(part.get("reused", 0) for part in times), 2),
            },
        }

    def write(self, kind: str, record: Any) -> None:
        """One of the assembled results files, `<kind>_<model>.json`, checked against its schema."""
        self._write(self.data_folder / f"{kind}_{self.slug}.json", record, kind)

    def _write(self, path: Path, record: Any, schema: str) -> None:
        """The pipeline that started this section holds the profile's folder; a notebook run by hand waits for it."""
        with nullcontext() if "EXPERIMENT10_PIPELINE" in os.environ else locked(self.profile):
            io.write_json(path, record, schema)

    def provenance(self, chosen: dict[str, Any] | None = None) -> dict[str, Any]:
        setup = self.setup
        record = provenance.provenance(
            self.profile,
            chosen or setup["parameters"] | self.parameters,
            setup["parameters"]["seed"],
            {k: setup["model"][k] for k in ("name", "fingerprint")},
            {k: setup["corpus"][k] for k in ("name", "fingerprint")},
            setup["device"],
            self.backend,
            self.start,
            time.time() - self.start.time,
        )
        record["times"]["reused"] = round(self.reused_seconds(), 2)
        return record

    @cached_property
    def known_seconds(self) -> dict[str, float]:
        """What the store's entries have cost, as far as sections of any profile have noted it."""
        return ledger.known(build_root())

    def reused_seconds(self) -> float:
        """What it once took to compute the entries of the store that this section has found there."""
        store = open_store()
        return sum(self.known_seconds.get(key, 0.0) for key in store.used - store.seconds.keys())


def have_measured(name: str, profile: str) -> None:
    """Has the pipeline run a section and what it needs, in a process of its own, with the parameters of its last run.

    Raises `InputError` with the pipeline's own line where that fails.
    """
    for line in children.lines(children.command("lib.pipeline", "run", name, "--profile", profile, "--as-before")):
        print(line, end="", flush=True)
