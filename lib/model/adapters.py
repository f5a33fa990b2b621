"""What the engine needs to know of a decoder: its parts, one step at a time, in the checkpoint's own terms.

`adapter(model)` wraps a Hugging Face causal language model of the GPT-2 or of the Llama type (RMSNorm, rotary
positions, grouped keys and values; Mistral, Qwen2 and Qwen3 are of that type). The steps are the model's own
modules called in the model's own order:

    resid = embed(tokens)
    for each layer:  q, k, v = qkv(layer, resid);  z = attention;  resid = attention_out(layer, resid, z)
                     resid = mlp(layer, resid)
    logits = logits(final(resid))

The first use of a matrix packs it (`lib.model.packed_linear`); a model keeps its adapter until its weights change.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lib.errors import InputError
from lib.model.header import GPT2_TYPES, LLAMA_TYPES
from lib.model.packed_linear import Linear, can_pack

PART = 2048  # tokens of the vocabulary whose logits are one packed product


_ADAPTERS: "WeakKeyDictionary[PreTrainedModel, tuple[list, Decoder]]" = WeakKeyDictionary()


def adapter(model: PreTrainedModel) -> "Decoder":
    """The adapter of a causal language model; `InputError` for a family that is neither GPT-2 nor Llama-type."""
    weights = [(p.data_ptr(), None if p.is_inference() else p._version) for p in model.parameters()]
    known = _ADAPTERS.get(model)
    if known is None or known[0] != weights:
        known = weights, _make_adapter(model)
        _ADAPTERS[model] = known
    return known[1]


def _make_adapter(model: Any) -> "Decoder":
    kind = model.config.model_type
    if kind in GPT2_TYPES:
        return GPT2(model)
    if kind in LLAMA_TYPES:
        return Llama(model)
    allowed = ", ".join(GPT2_TYPES + LLAMA_TYPES)
    raise InputError(f"model type '{kind}' is not supported: choose a model of type {allowed}")


class Decoder(ABC):
    """Sizes and steps of a decoder. B batch, T positions, E `n_embd`, H `n_head`, d `d_head`; z is [B, T, H * d].

    `n_positions` is the longest sequence with full causal attention: the trained length, or the sliding window
    where that is shorter. `kept` is room for what is made for this model and goes with it.
    """

    n_kv_head: int
    d_head: int
    n_positions: int
    body: Any  # the model without its unembedding

    def __init__(self, model: Any) -> None:
        config = model.config
        self.config = config
        self.n_layer = config.num_hidden_layers
        self.n_head = config.num_attention_heads
        self.n_embd = config.hidden_size
        self.vocab_size = config.vocab_size
        self.unembed = model.get_output_embeddings().weight  # [vocab_size, n_embd]
        self._value_bias: dict[int, Tensor] = {}
        self._linears: dict[tuple[Module, ...], Linear] = {}
        self._unembedding: list[Linear] = []  # of the parts of the vocabulary
        self._to_pack = torch.empty(0)
        self.kept: dict[Any, Any] = {}
        self._lock = Lock()  # several threads share an adapter

    @property
    def device(self) -> torch.device:
        return self.unembed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unembed.dtype

    @abstractmethod
    def attention(self, layer: int) -> Any:
        """The layer's attention module."""

    @abstractmethod
    def output_projection(self, layer: int) -> Module:
        """The module whose input is z."""

    @abstractmethod
    def embed(self, tokens: Tensor, start: int | Tensor = 0) -> Tensor:
        """resid [B, T, E] of token ids [B, T] at positions `start` ... `start` + T - 1.

        A `start` [1] on the device is a tensor of its own for each pass, whose number stays as it is.
        """

    @abstractmethod
    def qkv(self, layer: int, resid: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, H, T, d], k and v [B, H_kv, T, d] at positions `start` ... `start` + T - 1, as in `embed`."""

    @abstractmethod
    def mlp(self, layer: int, resid: Tensor) -> Tensor:
        """resid after the layer's MLP."""

    @abstractmethod
    def final(self, resid: Tensor) -> Tensor:
        """resid after the last norm: what is multiplied by the unembedding."""

    @abstractmethod
    def _make_value_bias(self, layer: int) -> Tensor:
        """v̄ [n_head, d_head] before it takes the model's dtype."""

    def check_ids(self, tokens: Tensor) -> None:
        """`InputError` for a token id that the model does not know."""
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            wrong, allowed = low if low < 0 else high, f"0 to {self.vocab_size - 1}"
            raise InputError(f"token id {wrong} is not in this model's vocabulary: allowed are {allowed}")

    def scale(self, layer: int) -> float:
        """The factor of q kᵀ in the attention scores."""
        return self.attention(layer).scaling

    def value_bias(self, layer: int) -> Tensor:
        """v̄ [n_head, d_head]: the part of every value vector that does not depend on the input.

        Folding it into the output bias is exact for attention whose rows sum to 1: the values become v - v̄ and
        the head's output z - v̄. A head set to zero in that basis has z = v̄ in the raw one. Where gradients are
        wanted it is made anew, with its own.
        """
        if torch.is_grad_enabled():
            return self._make_value_bias(layer).to(self.dtype).to(self.device)
        with self._lock:
            if layer not in self._value_bias:
                self._value_bias[layer] = self._make_value_bias(layer).to(self.dtype).to(self.device)
            return self._value_bias[layer]

    def attention_out(self, layer: int, resid: Tensor, z: Tensor) -> Tensor:
        """resid + z W_O + b_O, [B, T, E]."""
        return self._linear(self.output_projection(layer)).add(z, resid)

    def logits(self, final: Tensor) -> Tensor:
        """Logits [..., vocab_size] of `final(resid)`; in bfloat16 every row less its mean, which moves no softmax."""
        parts = [logits for _, logits in self.logits_parts(final)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def logits_parts(self, final: Tensor) -> Iterator[tuple[int, Tensor]]:
        """`logits` a part of the vocabulary at a time: (first token id, logits [..., `part_size` or the rest])."""
        with self._lock:
            if not self._unembedding:
                weight = self.unembed
                if weight.dtype == torch.bfloat16:  # logits far from 0 would lose the digits that tell them apart
                    weight = (weight.float() - weight.float().mean(0)).to(weight.dtype)
                self._unembedding = [Linear(part) for part in weight.split(self.part_size)]
            products = self._unembedding
        for i, product in enumerate(products):
            yield i * self.part_size, product(final)

    @property
    def part_size(self) -> int:
        """Tokens of a part of the vocabulary: packed products of fewer columns and more rows are quicker."""
        return min(PART, self.vocab_size) if can_pack(self.unembed) else self.vocab_size

    def pack(self) -> None:
        """Packs every matrix at once, by way of one token: packed at their first use in a longer pass, they would lie
        between what that pass leaves, in holes too small for the next."""
        if self._linears:
            return
        with torch.inference_mode():
            resid = self.embed(torch.zeros(1, 1, dtype=torch.long, device=self.device), 0)
            for layer in range(self.n_layer):
                q, _, _ = self.qkv(layer, resid, 0)
                resid = self.mlp(layer, self.attention_out(layer, resid, q.transpose(1, 2).flatten(2)))
            self.logits(self.final(resid))
        self._to_pack = torch.empty(0)

    def let_go(self) -> None:
        """Gives up the packed matrices, for work that needs the room; their next use packs them again."""
        with self._lock:
            self._linears.clear()
            self._unembedding = []
            self.kept.clear()

    def _linear(self, *modules: Any) -> Linear:
        """One `Linear` for the modules' matrices side by side."""
        with self._lock:
            if modules not in self._linears:
                biases = [module.bias for module in modules]
                weights = [m.weight if isinstance(m, torch.nn.Linear) else m.weight.T for m in modules]
                if any(b is not None for b in biases):
                    biases = [w.new_zeros(len(w)) if b is None else b for b, w in zip(biases, weights, strict=True)]
                bias = None if biases[0] is None else torch.cat(biases)
                self._linears[modules] = Linear(self._side_by_side(weights), bias)
            return self._linears[modules]

    def _side_by_side(self, weights: list[Tensor]) -> Tensor:
        """Matrices [n_out, n_in] as one. Those that are packed next pass through one buffer: what each of them left of
        its own would lie between the packed ones, too small for the next."""
        if not can_pack(weights[0]):
            return torch.cat(weights)
        size = sum(weight.numel() for weight in weights)
        with torch.inference_mode():
            if self._to_pack.numel() < size:
                self._to_pack = weights[0].new_empty(size)
            return torch.cat(weights, out=self._to_pack[:size].view(-1, weights[0].shape[1]))


class GPT2(Decoder):
    """`GPT2LMHeadModel`: learned positions, LayerNorm with biases, one fused matrix for q, k and v."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if model.config.add_cross_attention:
            raise InputError("this GPT-2 has cross-attention: only decoder-only models are supported")
        self.body = model.transformer
        self.n_kv_head = self.n_head
        self.d_head = self.n_embd // self.n_head
        self.n_positions = model.config.n_positions
        self.gelu_new = model.config.activation_function == "gelu_new"

    def attention(self, layer: int) -> Any:
        return self.body.h[layer].attn

    def output_projection(self, layer: int) -> Module:
        """The module whose input is z."""
        return self.body.h[layer].attn.c_proj

    def embed(self, tokens: Tensor, start: int | Tensor = 0) -> Tensor:
        """resid [B, T, E] of token ids [B, T] at positions `start` ... `start` + T - 1."""
        return self.body.wte(tokens) + self.body.wpe(start + torch.arange(tokens.shape[1], device=tokens.device))

    def qkv(self, layer: int, resid: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v, each [B, H, T, d]; `start` plays no part once the positions are embedded."""
        block = self.body.h[layer]
        fused = self._linear(block.attn.c_attn)(block.ln_1(resid))
        q, k, v = (x.unflatten(-1, (-1, self.d_head)).transpose(1, 2) for x in fused.split(self.n_embd, dim=-1))
        return q, k, v

    def mlp(self, layer: int, resid: Tensor) -> Tensor:
        """resid after the layer's MLP; `gelu_new` is done with the product instead of in eight steps of its own."""
        block = self.body.h[layer]
        up, normed = self._linear(block.mlp.c_fc), block.ln_2(resid)
        hidden = up.gelu(normed) if self.gelu_new else block.mlp.act(up(normed))
        return self._linear(block.mlp.c_proj).add(hidden, resid)

    def final(self, resid: Tensor) -> Tensor:
        return self.body.ln_f(resid)

    def _make_value_bias(self, layer: int) -> Tensor:
        block = self.body.h[layer]
        weight, bias = block.attn.c_attn.weight[:, -self.n_embd :], block.attn.c_attn.bias[-self.n_embd :]
        norm_bias, weight, bias = (x.cpu().double() for x in (block.ln_1.bias, weight, bias))
        return (norm_bias @ weight + bias).view(self.n_head, self.d_head)


class Llama(Decoder):
    """`LlamaForCausalLM` and its kind: RMSNorm, rotary positions, grouped keys and values, biases optional."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = model.config
        self.body = model.model
        self.n_kv_head = config.num_key_value_heads
        self.d_head = getattr(config, "head_dim", None) or self.n_embd // self.n_head
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        self.n_positions = min(config.max_position_embeddings, window or config.max_position_embeddings)
        self._rotation: tuple[int | Tensor, int, tuple[Tensor, Tensor]] | None = None

    def attention(self, layer: int) -> Any:
        return self.body.layers[layer].self_attn

    def output_projection(self, layer: int) -> Module:
        """The module whose input is z."""
        return self.body.layers[layer].self_attn.o_proj

    def embed(self, tokens: Tensor, start: int | Tensor = 0) -> Tensor:
        """resid [B, T, E] of token ids [B, T]; positions enter in `qkv`."""
        return self.body.embed_tokens(tokens)

    def qkv(self, layer: int, resid: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, H, T, d], k and v [B, H_kv, T, d]; q and k rotated for positions `start` ... `start` + T - 1."""
        block = self.body.layers[layer]
        attn, sizes = block.self_attn, [n * self.d_head for n in (self.n_head, self.n_kv_head, self.n_kv_head)]
        fused = self._linear(attn.q_proj, attn.k_proj, attn.v_proj)(block.input_layernorm(resid))
        q, k, v = (x.unflatten(-1, (-1, self.d_head)) for x in fused.split(sizes, dim=-1))
        if hasattr(attn, "q_norm"):
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), *self._cos_sin(resid, start))
        return q, k, v.transpose(1, 2)

    def mlp(self, layer: int, resid: Tensor) -> Tensor:
        """resid after the layer's MLP."""
        block = self.body.layers[layer]
        mlp = block.mlp
        gate, up = self._linear(mlp.gate_proj, mlp.up_proj)(block.post_attention_layernorm(resid)).chunk(2, dim=-1)
        return self._linear(mlp.down_proj).add(mlp.act_fn(gate) * up, resid)

    def final(self, resid: Tensor) -> Tensor:
        return self.body.norm(resid)

    def _cos_sin(self, resid: Tensor, start: int | Tensor) -> tuple[Tensor, Tensor]:
        n_tokens, known = resid.shape[1], self._rotation
        if known is None or known[1] != n_tokens or not _same(known[0], start):
            positions = start + torch.arange(n_tokens, device=resid.device)
            known = start, n_tokens, self.body.rotary_emb(resid, positions[None])
            self._rotation = known
        return known[2]

    def _make_value_bias(self, layer: int) -> Tensor:
        proj = self.attention(layer).v_proj
        bias = torch.zeros_like(proj.weight[:, 0]) if proj.bias is None else proj.bias
        return bias.view(self.n_kv_head, self.d_head).repeat_interleave(self.n_head // self.n_kv_head, 0)


def _same(one: int | Tensor, other: int | Tensor) -> bool:
    """Whether both are one number, or one tensor."""
    return one is other or (isinstance(one, int) and isinstance(other, int) and one == other)
