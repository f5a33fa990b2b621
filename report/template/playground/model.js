"use strict";
// GPT-2, one token at a time over a key-value cache, each head under a mode of its own.
const MODE = { softmax: 0, relu: 1, zero: 2, mean: 3 };

// Lets the page breathe: the rest goes on in a task of its own.
const breathe = () => new Promise((resolve) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => { port1.close(); resolve(); };
  port2.postMessage(null);
});

class Gpt2 {
  // `text` is base64 of deflated bytes, laid out as `index` says (report/playground.py).
  static async unpack(text, index, config) {
    const parts = [];
    for (let at = 0; at < text.length; at += 1 << 19) {
      parts.push(Uint8Array.from(atob(text.slice(at, at + (1 << 19))), (letter) => letter.charCodeAt(0)));
      await breathe();
    }
    const buffer = await new Response(new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
    const count = index.matrices.reduce((sum, [, rows, columns]) => sum + rows * columns, 0);
    let value = 0, float = (count + 3) & ~3;
    const floats = (length) => { const found = new Float32Array(buffer, float, length); float += 4 * length; return found; };
    const tensors = {};
    for (const [name, rows, columns] of index.matrices) {
      const own = new Int8Array(buffer, value, rows * columns), scales = floats(rows);
      const matrix = tensors[name] = new Float32Array(rows * columns);
      for (let r = 0, i = 0; r < rows; r += 1) for (const end = i + columns; i < end; i += 1) matrix[i] = own[i] * scales[r];
      value += rows * columns;
      await breathe();
    }
    for (const [name, length] of index.vectors) tensors[name] = floats(length);
    return new Gpt2(config, tensors);
  }

  constructor(config, tensors) {
    Object.assign(this, { config, tensors });
    const { n_layer: layers, n_embd: width, n_positions: positions } = config;
    this.size = width / config.n_head;
    this.layers = Array.from({ length: layers }, (_, layer) => this.layer(layer));
    this.scratch = Object.fromEntries([["x", width], ["normed", width], ["qkv", 3 * width], ["z", width], ["up", 4 * width], ["weights", positions]]
      .map(([name, length]) => [name, new Float64Array(length)]));
  }

  layer(layer) {
    const own = (name) => this.tensors[`h.${layer}.${name}`], width = this.config.n_embd;
    const [norm, weight, bias] = [own("ln_1.bias"), own("attn.c_attn.weight"), own("attn.c_attn.bias")];
    // v̄, the part of every value that does not depend on the input
    const valueBias = Float64Array.from({ length: width }, (_, i) => {
      let sum = bias[2 * width + i];
      for (let c = 0; c < width; c += 1) sum += weight[(2 * width + i) * width + c] * norm[c];
      return sum;
    });
    return {
      valueBias,
      norm1: [own("ln_1.weight"), norm], qkv: [weight, bias], out: [own("attn.c_proj.weight"), own("attn.c_proj.bias")],
      norm2: [own("ln_2.weight"), own("ln_2.bias")], up: [own("mlp.c_fc.weight"), own("mlp.c_fc.bias")], down: [own("mlp.c_proj.weight"), own("mlp.c_proj.bias")],
    };
  }

  cache() {
    const { n_layer: layers, n_embd: width, n_positions: positions } = this.config;
    const empty = () => Array.from({ length: layers }, () => new Float32Array(positions * width));
    return { length: 0, keys: empty(), values: empty() };
  }

  // Logits [vocab_size] after `token`, which joins the cache. heads: a mode for each head, layer by layer.
  step(token, cache, heads) {
    const { n_embd: width, n_layer: layers, vocab_size: words } = this.config, { x, normed, qkv, z, up } = this.scratch;
    const { "wte.weight": embedding, "wpe.weight": positions } = this.tensors, at = cache.length;
    for (let i = 0; i < width; i += 1) x[i] = embedding[token * width + i] + positions[at * width + i];
    for (let layer = 0; layer < layers; layer += 1) {
      const own = this.layers[layer];
      this.norm(x, own.norm1, normed);
      Gpt2.times(own.qkv, normed, qkv, 3 * width);
      cache.keys[layer].set(qkv.subarray(width, 2 * width), at * width);
      cache.values[layer].set(qkv.subarray(2 * width), at * width);
      for (let head = 0; head < this.config.n_head; head += 1) this.attend(layer, head, heads[layer * this.config.n_head + head], cache);
      Gpt2.times(own.out, z, normed, width);
      for (let i = 0; i < width; i += 1) x[i] += normed[i];
      this.norm(x, own.norm2, normed);
      Gpt2.times(own.up, normed, up, 4 * width);
      for (let i = 0; i < up.length; i += 1) up[i] = 0.5 * up[i] * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (up[i] + 0.044715 * up[i] ** 3)));
      Gpt2.times(own.down, up, normed, width);
      for (let i = 0; i < width; i += 1) x[i] += normed[i];
    }
    this.norm(x, [this.tensors["ln_f.weight"], this.tensors["ln_f.bias"]], normed);
    const logits = new Float64Array(words);
    Gpt2.times([embedding, null], normed, logits, words);
    cache.length += 1;
    return logits;
  }

  // z of one head: the value bias where it is zeroed, its mean where it is fixed there, else a weighted sum of values.
  // ReLU weights act on values less v̄, so that a row without a positive score gives v̄.
  attend(layer, head, mode, cache) {
    const { size } = this, width = this.config.n_embd, from = head * size, n = cache.length + 1;
    const { qkv, z, weights } = this.scratch, bias = this.layers[layer].valueBias;
    if (mode === MODE.zero || mode === MODE.mean) {
      const means = this.tensors.means, place = layer * width + from;
      for (let i = 0; i < size; i += 1) z[from + i] = mode === MODE.zero ? bias[from + i] : means[place + i];
      return;
    }
    const keys = cache.keys[layer], values = cache.values[layer], scale = 1 / Math.sqrt(size);
    let most = -Infinity, total = 0;
    for (let t = 0; t < n; t += 1) {
      let score = 0;
      for (let i = 0, k = t * width + from; i < size; i += 1) score += qkv[from + i] * keys[k + i];
      weights[t] = score * scale;
      most = Math.max(most, weights[t]);
    }
    for (let t = 0; t < n; t += 1) {
      weights[t] = mode === MODE.relu ? Math.max(weights[t], 0) : Math.exp(weights[t] - most);
      total += weights[t];
    }
    const divisor = mode === MODE.relu ? Math.max(total, 1e-8) : total, rest = 1 - total / divisor;
    for (let i = 0; i < size; i += 1) z[from + i] = rest * bias[from + i];
    for (let t = 0; t < n; t += 1) {
      const weight = weights[t] / divisor;
      if (weight) for (let i = 0, v = t * width + from; i < size; i += 1) z[from + i] += weight * values[v + i];
    }
  }

  norm(x, [weight, bias], out) {
    const n = x.length;
    let mean = 0, square = 0;
    for (let i = 0; i < n; i += 1) mean += x[i] / n;
    for (let i = 0; i < n; i += 1) square += (x[i] - mean) ** 2 / n;
    const scale = 1 / Math.sqrt(square + this.config.layer_norm_epsilon);
    for (let i = 0; i < n; i += 1) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
  }

  // out [rows] = weight [rows, x.length] x + bias; four sums at once
  static times([weight, bias], x, out, rows) {
    const n = x.length, whole = n - (n % 4);
    for (let r = 0, w = 0; r < rows; r += 1, w += n) {
      let a = 0, b = 0, c = 0, d = 0, i = 0;
      for (; i < whole; i += 4) {
        a += weight[w + i] * x[i];
        b += weight[w + i + 1] * x[i + 1];
        c += weight[w + i + 2] * x[i + 2];
        d += weight[w + i + 3] * x[i + 3];
      }
      for (; i < n; i += 1) a += weight[w + i] * x[i];
      out[r] = a + b + c + d + (bias ? bias[r] : 0);
    }
  }
}

// A text under a model whose heads have their modes: keeps what it has read for as long as text and modes agree.
class Reader {
  constructor(model) {
    this.model = model;
    this.heads = new Uint8Array(model.config.n_layer * model.config.n_head);
    this.forget();
  }

  forget() { Object.assign(this, { cache: this.cache || this.model.cache(), tokens: [], nll: [], logits: null }); this.cache.length = 0; }
  setHeads(heads) { if (heads.some((mode, i) => mode !== this.heads[i])) { this.heads = Uint8Array.from(heads); this.forget(); } }

  // Reads `tokens`; false where `wanted()` became so before the end. Does about 12 ms of work at a time.
  async read(tokens, wanted = () => true) {
    let same = 0;
    while (same < tokens.length && tokens[same] === this.tokens[same]) same += 1;
    if (same < this.tokens.length) {
      // the last token that stays is taken once more, for its logits; its own loss is known
      this.nll.length = same;
      same = Math.max(0, same - 1);
      this.tokens.length = this.cache.length = same;
    }
    let since = performance.now();
    for (const token of tokens.slice(same)) {
      this.take(token);
      if (performance.now() - since > 12) {
        await breathe();
        if (!wanted()) return false;
        since = performance.now();
      }
    }
    return true;
  }

  take(token) {
    const at = this.tokens.length;
    if (this.nll.length === at) this.nll.push(at ? Reader.surprise(this.logits, token) : null);
    this.logits = this.model.step(token, this.cache, this.heads);
    this.tokens.push(token);
  }

  greedy() { return this.logits.reduce((best, value, i, all) => (value > all[best] ? i : best), 0); }

  // PPL of the first n tokens, the first of which nothing predicts; null where there are fewer than two.
  ppl(n) { return n < 2 ? null : Math.exp(this.nll.slice(1, n).reduce((sum, value) => sum + value, 0) / (n - 1)); }

  // The k most probable next tokens: [{id, p}].
  next(k) {
    const total = Reader.total(this.logits);
    return Array.from(this.logits, (value, id) => ({ id, p: Math.exp(value - total) })).sort((a, b) => b.p - a.p).slice(0, k);
  }

  static total(logits) {
    const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    return most + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0));
  }
  static surprise(logits, token) { return Reader.total(logits) - logits[token]; }
}
