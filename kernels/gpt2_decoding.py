"""Greedy decoding of one GPT-2 sequence with a static cache, its whole step replayed as one CUDA graph."""

import torch
import triton

from kernels import graphs, triton_attention, triton_gpt2
from kernels.triton_attention import INTERPRETED
from lib.errors import InputError

PRODUCT_ROWS, PRODUCT_STEP, VOCAB_SPAN = 4, 1024, 1024


def is_plain(config):
    """Whether a `transformers` configuration is GPT-2 as published."""
    return (
        config.model_type == "gpt2"
        and config.activation_function == "gelu_new"
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
    )


class GraphDecoder:
    """`generate` for a `transformers` GPT-2 whose heads are softmax or ReLU, batch 1.

    model: GPT2LMHeadModel on a CUDA device. is_relu: per layer, one bool per head. The value bias is folded into the
    output bias, so a head without a positive score gives what the folded model gives. Five or six launches per
    layer and three more; the step's position, cache and tokens live on the device, and no step waits for the host.
    """

    def __init__(self, model, is_relu):
        config = model.config
        if not is_plain(config):
            raise InputError(f"model '{config.model_type}' is no plain GPT-2: decode it with lib.engine.generation")
        if model.device.type != "cuda" and not INTERPRETED:
            raise InputError(f"the model is on '{model.device}': a graph needs a cuda device")
        self.n_layer, self.n_head, self.n_embd = config.n_layer, config.n_head, config.n_embd
        self.d_head = config.n_embd // config.n_head
        self.n_positions, self.n_vocab = config.n_positions, config.vocab_size
        if [len(flags) for flags in is_relu] != self.n_layer * [self.n_head]:
            raise InputError(f"is_relu has {[len(f) for f in is_relu]} entries: give {self.n_layer} x {self.n_head}")
        self.epsilon = config.layer_norm_epsilon
        self.modes = ["relu" if all(flags) else "branch" if any(flags) else "softmax" for flags in is_relu]
        self.is_relu = torch.tensor(is_relu, dtype=torch.int32, device=model.device)  # as long as the graph reads it
        with torch.no_grad():
            self._take_weights(model)
        device, dtype = model.device, model.dtype
        self.keys, self.values = (
            torch.zeros(self.n_layer, 1, self.n_head, self.n_positions, self.d_head, dtype=dtype, device=device)
            for _ in range(2)
        )
        empty = {"dtype": torch.float32, "device": device}
        self.x, self.q, self.z = (torch.empty(self.n_embd, **empty) for _ in range(3))
        self.hidden = torch.empty(self.layers[0]["up"].shape[0], **empty)
        self.logits = torch.empty(self.n_vocab, **empty)
        n_spans = triton.cdiv(self.n_vocab, VOCAB_SPAN)
        self.best = torch.empty(n_spans, **empty)
        self.where = torch.empty(n_spans, dtype=torch.int32, device=device)
        self.tokens = torch.zeros(self.n_positions, dtype=torch.int32, device=device)
        self.position, self.n_visible, self.n_prompt = (
            torch.zeros(1, dtype=torch.int32, device=device) for _ in range(3)
        )
        self.replay = None

    def _take_weights(self, model):
        """Weights as [out, in] in the model's type, biases and gains in float32, value biases folded."""
        self.embedding, self.places = model.transformer.wte.weight.detach(), model.transformer.wpe.weight.detach()
        self.head = model.lm_head.weight.detach()
        self.no_bias = torch.zeros(self.n_vocab, dtype=torch.float32, device=model.device)
        self.last_norm = tuple(p.detach().float() for p in (model.transformer.ln_f.weight, model.transformer.ln_f.bias))
        self.layers = []
        for block in model.transformer.h:
            qkv, out = block.attn.c_attn, block.attn.c_proj
            bias = qkv.bias.float().clone()
            value_weight = qkv.weight[:, 2 * self.n_embd :].float()
            value_bias = block.ln_1.bias.float() @ value_weight + bias[2 * self.n_embd :]
            bias[2 * self.n_embd :] -= value_bias
            self.layers.append(
                {
                    "norm_1": (block.ln_1.weight.float(), block.ln_1.bias.float()),
                    "qkv": qkv.weight.T.contiguous(),
                    "qkv_bias": bias,
                    "out": out.weight.T.contiguous(),
                    "out_bias": out.bias.float() + value_bias @ out.weight.float(),
                    "norm_2": (block.ln_2.weight.float(), block.ln_2.bias.float()),
                    "up": block.mlp.c_fc.weight.T.contiguous(),
                    "up_bias": block.mlp.c_fc.bias.float(),
                    "down": block.mlp.c_proj.weight.T.contiguous(),
                    "down_bias": block.mlp.c_proj.bias.float(),
                }
            )

    def bytes_per_token(self, n_visible):
        """Bytes that a step must read: every weight once, and the cache so far."""
        weights = sum(layer[name].numel() for layer in self.layers for name in ("qkv", "out", "up", "down"))
        cached = 2 * self.n_layer * n_visible * self.n_embd
        return (weights + self.head.numel() + cached) * self.head.element_size()

    def _product(self, x, weight, bias, out, norm=None, activation="none", add=False, layer=None):
        n_out, n_in = weight.shape
        triton_gpt2.product[(triton.cdiv(n_out, PRODUCT_ROWS),)](
            x, weight, bias, *(norm or (bias, bias)), out,
            *((self.keys[layer], self.values[layer]) if layer is not None else (out, out)), self.position, n_out,
            N_IN=n_in, BLOCK_IN=triton.next_power_of_2(n_in), ROWS=PRODUCT_ROWS,
            STEP=min(PRODUCT_STEP, triton.next_power_of_2(n_in)), EPSILON=self.epsilon, NORMALISE=norm is not None,
            ACTIVATION=activation, ADD=add, CACHE=layer is not None, N_EMBD=self.n_embd, D_HEAD=self.d_head,
            N_POSITIONS=self.n_positions, num_warps=4,
        )

    def step(self):
        """Logits of the token at `position`, then the next token in its place; everything stays on the device."""
        shape = 1, self.n_head, 1, self.d_head
        for layer, w in enumerate(self.layers):
            self._product(self.x, w["qkv"], w["qkv_bias"], self.q, norm=w["norm_1"], layer=layer)
            q, z = self.q.view(shape), self.z.view(shape)
            keys, values, mode = self.keys[layer], self.values[layer], self.modes[layer]
            flags = self.is_relu[layer] if mode == "branch" else None
            triton_attention.decode(q, keys, values, z, self.d_head**-0.5, self.n_visible, mode, flags)
            self._product(self.z, w["out"], w["out_bias"], self.x, add=True)
            self._product(self.x, w["up"], w["up_bias"], self.hidden, norm=w["norm_2"], activation="gelu")
            self._product(self.hidden, w["down"], w["down_bias"], self.x, add=True)
        self._product(self.x, self.head, self.no_bias, self.logits, norm=self.last_norm)
        triton_gpt2.largest[(len(self.best),)](self.logits, self.best, self.where, self.n_vocab, SPAN=VOCAB_SPAN)
        triton_gpt2.advance[(1,)](
            self.best, self.where, self.tokens, self.position, self.n_visible, self.n_prompt, self.embedding,
            self.places, self.x,
            N_SPANS=len(self.best), BLOCK_SPANS=triton.next_power_of_2(len(self.best)), N_EMBD=self.n_embd,
            BLOCK_EMBD=triton.next_power_of_2(self.n_embd), N_POSITIONS=self.n_positions, N_VOCAB=self.n_vocab,
        )

    def start(self, prompt):
        """Set the device's state to the first token of `prompt` (a sequence of ids)."""
        ids = torch.as_tensor(prompt, dtype=torch.int32, device=self.tokens.device).flatten()
        if not 0 < len(ids) <= self.n_positions:
            raise InputError(f"a prompt of {len(ids)} tokens: give 1 to {self.n_positions}")
        self.tokens.zero_()
        self.tokens[: len(ids)] = ids
        self.position.zero_()
        self.n_visible.fill_(1)
        self.n_prompt.fill_(len(ids))
        self.x.copy_(self.embedding[ids[0].long()].float() + self.places[0].float())

    @torch.no_grad()
    def capture(self):
        """Record the step once; a few steps beforehand compile its kernels."""
        graphs.warm_up(self.step, lambda: self.start([0]))
        self.replay = graphs.capture(self.step)

    @torch.no_grad()
    def generate(self, prompt, n_new, graph=True):
        """int32 [n_prompt + n_new]: the prompt, read token by token, and its greedy continuation."""
        n_prompt = len(prompt)
        if n_prompt + n_new > self.n_positions:
            raise InputError(f"{n_prompt} + {n_new} tokens: the model has {self.n_positions} positions")
        if graph and self.replay is None:
            self.capture()
        self.start(prompt)
        step = self.replay if graph and self.replay else self.step
        for _ in range(n_prompt + n_new - 1):
            step()
        return self.tokens[: n_prompt + n_new].clone()
