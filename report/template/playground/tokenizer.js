"use strict";
// The byte-level BPE of GPT-2: text to ids and back.
class Tokenizer {
  // \s of the original is Unicode's white space, which JavaScript's own \s is not.
  static PIECES = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

  constructor({ vocab, merges, special }) {
    this.vocab = vocab;
    this.ids = new Map(vocab.map((token, id) => [token, id]));
    this.ranks = new Map(merges.map((merge, rank) => [merge, rank]));
    this.special = new Map(Object.entries(special));
    this.specialById = new Map(Object.entries(special).map(([content, id]) => [id, content]));
    this.letters = Tokenizer.letters();
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.known = new Map();
  }

  // A printable letter for each byte: those that have one keep it, the others come after U+00FF.
  static letters() {
    const printable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    let next = 256;
    return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
  }

  encode(text) {
    const ids = [];
    for (let rest = text; rest;) {
      const found = [...this.special.keys()].map((content) => [rest.indexOf(content), content]).filter(([at]) => at >= 0).sort((a, b) => a[0] - b[0] || b[1].length - a[1].length)[0];
      for (const piece of (found ? rest.slice(0, found[0]) : rest).match(Tokenizer.PIECES) || []) ids.push(...this.merge(piece));
      if (!found) break;
      ids.push(this.special.get(found[1]));
      rest = rest.slice(found[0] + found[1].length);
    }
    return ids;
  }

  merge(piece) {
    if (this.known.has(piece)) return this.known.get(piece);
    let parts = [...new TextEncoder().encode(piece)].map((byte) => this.letters[byte]);
    while (parts.length > 1) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i += 1) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) break;
      const [left, right] = [parts[at], parts[at + 1]], joined = [];
      for (let i = 0; i < parts.length; i += 1) {
        if (parts[i] === left && parts[i + 1] === right) { joined.push(left + right); i += 1; } else joined.push(parts[i]);
      }
      parts = joined;
    }
    const ids = parts.map((part) => this.ids.get(part)).filter((id) => id !== undefined);
    if (this.known.size < 10000) this.known.set(piece, ids);
    return ids;
  }

  decode(ids) {
    const bytes = [];
    for (const id of ids) {
      if (this.specialById.has(id)) bytes.push(...new TextEncoder().encode(this.specialById.get(id)));
      else for (const letter of this.vocab[id] || "") bytes.push(this.bytes.get(letter) ?? 63);
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
  }
}
