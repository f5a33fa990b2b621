"""A plan as JSON, with all that doing it to a model needs: what `schema/plan.json` describes.

Constants stand in the file by value: the largest plan of GPT-2 small takes about 200 KB. They are float32, written in
the fewest digits that give the same float32 back, so that reading and writing again yields the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lib.engine.interventions import Plan, Shape
from lib.engine.modes import MODES, look_up
from lib.errors import InputError, first_line
from lib.files import replacing
from lib.results import io

FORMAT = "experiment10-plan/1"

Head = tuple[int, int]


class Source(Shape, Protocol):
    """What a plan's constants are read from: a `lib.model.adapters.Decoder`."""

    def value_bias(self, layer: int) -> Tensor: ...


@dataclass(frozen=True)
class Sizes:
    """A model's layers, heads in each, and the length of a head's z."""

    n_layer: int
    n_head: int
    d_head: int


@dataclass(frozen=True, eq=False)
class PlanFile:
    """A plan and its constants, float32 [d_head] in the model's own basis.

    `value_bias` v̄ is there for every head of the plan, `mean` for those whose mode takes it; `weights` is the
    `fingerprint` of the model, where it is known.
    """

    plan: Plan
    sizes: Sizes
    value_bias: Mapping[Head, Tensor]
    mean: Mapping[Head, Tensor]
    weights: str | None = None

    @classmethod
    def of(cls, plan: Plan, model: Source, means: Tensor | None = None, weights: str | None = None) -> "PlanFile":
        """The plan with its constants for a model; `means` [n_layer, n_head, d_head] where a mode takes them."""
        plan.check(model, means)
        heads = [(layer, head) for layer, head, _ in plan.heads]
        bias = {(layer, head): model.value_bias(layer)[head].detach().float().cpu() for layer, head in heads}
        mean = {}
        for layer, head, mode in plan.heads:
            if look_up(mode).needs_means and means is not None:
                mean[layer, head] = means[layer, head].detach().float().cpu()
        return cls(plan, Sizes(model.n_layer, model.n_head, model.d_head), bias, mean, weights)

    @property
    def means(self) -> Tensor:
        """Means [n_layer, n_head, d_head] as `apply` and `Evaluator.score` take them; 0 where the plan needs none."""
        sizes = self.sizes
        means = torch.zeros(sizes.n_layer, sizes.n_head, sizes.d_head)
        for at, mean in self.mean.items():
            means[at] = mean
        return means

    def check(self, model: Source) -> None:
        """`InputError` unless `model` has the file's sizes, and the value biases of the plan's heads."""
        found = Sizes(model.n_layer, model.n_head, model.d_head)
        if found != self.sizes:
            raise InputError(f"the plan is for a model of {_words(self.sizes)}, given one of {_words(found)}")
        for (layer, head), bias in self.value_bias.items():
            own = model.value_bias(layer)[head]
            # as near as a bfloat16 copy of the same weights comes
            if not torch.allclose(bias.to(own), own, rtol=1e-2, atol=1e-4):
                raise InputError(
                    f"the plan is for other weights: the value bias of L{layer}H{head} differs; "
                    "load the model that it was written with, or write it again"
                )

    def to_json(self) -> str:
        """The file's text."""
        sizes = {"n_layer": self.sizes.n_layer, "n_head": self.sizes.n_head, "d_head": self.sizes.d_head}
        heads = []
        for layer, head, mode in self.plan.heads:
            entry = {"layer": layer, "head": head, "mode": mode, "value_bias": _numbers(self.value_bias[layer, head])}
            if (layer, head) in self.mean:
                entry["mean"] = _numbers(self.mean[layer, head])
            heads.append(entry)
        known = {} if self.weights is None else {"weights": self.weights}
        content = {"format": FORMAT, "model": sizes | known, "heads": heads}
        return json.dumps(content, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> None:
        """Writes the file whole or not at all."""
        content = self.to_json()
        with replacing(path) as partial:
            partial.write_text(content, encoding="utf-8")


def read(path: str | Path) -> PlanFile:
    """The plan in a file; `InputError` in one line where it holds none."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    return parsed(content, path.name)


def parsed(content: bytes, where: str = "plan") -> PlanFile:
    """The plan in the bytes of a file that `where` names; `InputError` in one line where they hold none."""
    try:
        found = json.loads(content.decode(), object_pairs_hook=_object)
        io.validate(found, "plan", where)
        return _checked(found, where)
    except InputError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: no plan ({first_line(error)}); write it with PlanFile.of(…).write(…)") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, none of whose keys stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _checked(content: dict[str, Any], where: str) -> PlanFile:
    """The plan of what the schema has let through."""
    model = content["model"]
    sizes = Sizes(*(int(model[name]) for name in ("n_layer", "n_head", "d_head")))
    bias, mean = {}, {}
    for entry in content["heads"]:
        mode, at = entry["mode"], (int(entry["layer"]), int(entry["head"]))
        name = f"L{at[0]}H{at[1]}"
        if mode not in MODES:
            raise InputError(f"{where}: {name}: mode {mode[:40]!r} is unknown: choose one of {', '.join(MODES)}")
        if ("mean" in entry) != MODES[mode].needs_means:
            what = "takes no mean, but one is given" if "mean" in entry else "takes the head's mean, but none is given"
            raise InputError(f"{where}: {name}: mode '{mode}' {what}")
        bias[at] = _constant(entry["value_bias"], sizes.d_head, f"{where}: {name}: value_bias")
        if "mean" in entry:
            mean[at] = _constant(entry["mean"], sizes.d_head, f"{where}: {name}: mean")
    try:
        plan = Plan(tuple((entry["layer"], entry["head"], entry["mode"]) for entry in content["heads"]))
        file = PlanFile(plan, sizes, bias, mean, model.get("weights"))
        plan.check(sizes, file.means)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return file


def _constant(numbers: list[float], d_head: int, where: str) -> Tensor:
    """float32 [d_head]."""
    if len(numbers) != d_head:
        raise InputError(f"{where} holds {len(numbers)} numbers, this model needs {d_head}")
    constant = torch.tensor([float(number) for number in numbers], dtype=torch.float32)
    if not torch.isfinite(constant).all():
        raise InputError(f"{where} holds NaN, infinity or a number beyond float32, allowed: finite numbers")
    return constant


def _numbers(constant: Tensor) -> list[float]:
    """Its numbers, each with the fewest digits that give the same float32 back."""
    return [float(str(number)) for number in np.asarray(constant, dtype=np.float32)]


def _words(sizes: Sizes) -> str:
    return f"{sizes.n_layer} layers of {sizes.n_head} heads of {sizes.d_head}"
