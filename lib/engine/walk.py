"""One chunk under many plans: each part of the work done once.

Plans on one chunk form a tree over layers: two plans that do the same to layers 0 ... l-1 share the residual that
enters layer l, and the baseline is the plan that does nothing. The tree is walked depth first. In a layer q, k, v
and the softmax z are computed once per residual, changed heads once per (head, mode), and every distinct edit of
the layer pays the output projection and the MLP. A zeroed or mean-ablated head needs no attention of its own.

Nothing waits for the host: what is computed, and in which order, the plans decide and not the tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib.engine import dispatch, likelihood
from lib.engine.interventions import Plan
from lib.engine.modes import by_weights, constants, heads_z, pick
from lib.model.adapters import Decoder

Edit = tuple[tuple[int, str], ...]  # (head, mode) of one layer


class Scored(NamedTuple):
    """A plan, its NLL [T - 1] and, of the plan that does nothing, the sums of z over positions, float64 [L, H, d]."""

    plan: Plan
    nll: Tensor
    z_sums: Tensor | None


class Walk:
    """A model's walks over chunks whose first token stands at position `start`; `backend` is resolved."""

    def __init__(self, arch: Decoder, backend: str, start: int = 0) -> None:
        self.arch, self.backend, self.start = arch, backend, start

    def scores(
        self, tokens: Tensor, plans: Sequence[Plan], means: Tensor | None, start: Tensor | None = None
    ) -> Iterator[Scored]:
        """The scores of `tokens` [1, T], the plan that does nothing first; `start` [1] is as `Decoder.embed` has it."""
        z_sums: list[Tensor] = []
        for plan, resid in self.residuals(tokens, plans, means, start, z_sums):
            hidden = self.arch.final(resid)[0, :-1]
            nll = likelihood.nll(self.arch, hidden, tokens[0, 1:], backend=self.backend)
            yield Scored(plan, nll, None if plan else torch.stack(z_sums))

    def residuals(
        self,
        tokens: Tensor,
        plans: Sequence[Plan],
        means: Tensor | None,
        start: Tensor | None = None,
        z_sums: list[Tensor] | None = None,
    ) -> Iterator[tuple[Plan, Tensor]]:
        """`(plan, residual [1, T, E] after the last layer)` of each plan; `z_sums` gets the baseline's, by layer."""
        at = self.start if start is None else start
        yield from self._below(0, self.arch.embed(tokens, at), at, plans, means, z_sums)

    def _below(
        self,
        layer: int,
        resid: Tensor,
        start: int | Tensor,
        plans: Sequence[Plan],
        means: Tensor | None,
        z_sums: list[Tensor] | None,
    ) -> Iterator[tuple[Plan, Tensor]]:
        """Yields `(plan, resid after the last layer)`; `plans` agree on all layers before `layer`.

        `z_sums` receives each layer's sums as long as nothing is changed; it is None below a change.
        """
        while layer < self.arch.n_layer:
            by_edit: dict[Edit, list[Plan]] = {}
            for plan in plans:
                by_edit.setdefault(tuple(plan.layer(layer).items()), []).append(plan)
            z, changed = self._z(layer, resid, start, by_edit)
            if z_sums is not None and () in by_edit:
                z_sums.append(self._summed(z))
            # the unchanged branch first: the baseline's z sums are whole before anything else is scored
            *others, last = sorted(by_edit)
            for edit in others:
                below = self._through(layer, resid, self._edited(z, layer, edit, changed, means))
                yield from self._below(layer + 1, below, start, by_edit[edit], means, None if edit else z_sums)
            # the last branch goes on in here: what this layer needed is let go
            resid = self._through(layer, resid, self._edited(z, layer, last, changed, means))
            layer, plans, z_sums = layer + 1, by_edit[last], None if last else z_sums
        yield plans[0], resid

    def _through(self, layer: int, resid: Tensor, z: Tensor) -> Tensor:
        """The residual [1, T, E] that leaves a layer."""
        return self.arch.mlp(layer, self.arch.attention_out(layer, resid, z))

    def _summed(self, z: Tensor) -> Tensor:
        """z [1, T, H * d] over positions, float64 [H, d]."""
        z = z[0].cpu() if z.device.type == "mps" else z[0]  # which has no float64
        return z.double().sum(0).view(self.arch.n_head, self.arch.d_head)

    def _z(
        self, layer: int, resid: Tensor, start: int | Tensor, by_edit: Iterable[Edit]
    ) -> tuple[Tensor, dict[tuple[int, str], Tensor]]:
        """(softmax z [1, T, H * d], {(head, mode): z [T, d]} of every head whose weights some edit changes).

        Heads that every edit changes have no softmax z: theirs is left undefined.
        """
        arch = self.arch
        q, k, v = arch.qkv(layer, resid, start)
        scale, group = arch.scale(layer), arch.n_head // arch.n_kv_head
        edited = set.intersection(*({head for head, _ in edit} for edit in by_edit))
        z = torch.empty_like(q)
        if not edited:
            z = dispatch.softmax_attention(q, k, v, scale=scale, backend=self.backend)
        elif len(edited) < arch.n_head:
            heads = sorted(set(range(arch.n_head)) - edited)
            kv = [head // group for head in heads]
            parts = pick(q, heads), pick(k, kv), pick(v, kv)
            kept = dispatch.softmax_attention(*parts, scale=scale, backend=self.backend)
            for i, head in enumerate(heads):
                z[:, head] = kept[:, i]
        changed: dict[tuple[int, str], Tensor] = {}
        for mode, heads in by_weights({change for edit in by_edit for change in edit}).items():
            bias = arch.value_bias(layer)
            found = heads_z(mode, heads, q, k, v, value_bias=bias, scale=scale, backend=self.backend)
            changed |= {(head, mode): found[0, i] for i, head in enumerate(heads)}
        return z.transpose(1, 2).flatten(2), changed

    def _edited(
        self,
        z: Tensor,
        layer: int,
        edit: Edit,
        changed: Mapping[tuple[int, str], Tensor],
        means: Tensor | None,
    ) -> Tensor:
        if not edit:
            return z
        z = z.clone()
        heads = z.view(*z.shape[:2], self.arch.n_head, self.arch.d_head)
        constant = constants(dict(edit), self.arch.value_bias(layer), None if means is None else means[layer])
        for head, mode in edit:
            heads[0, :, head] = constant[head] if head in constant else changed[head, mode]
        return z
