"use strict";
// The page around the model: text, board, the two models side by side.
const playground = (() => {
  const data = JSON.parse(document.getElementById("data").textContent), { config, words } = data;
  const root = document.documentElement, byId = (id) => document.getElementById(id);
  const NAMES = ["softmax", "relu", "zero", "mean"], SIGNS = ["·", "R", "0", "m"], SHOWN = 10, NEW_TOKENS = 64;
  const say = (key, values = {}) => words[key][root.dataset.lang].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const three = (value) => (value === null ? "—" : value >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(3));
  const tokenizer = new Tokenizer(data.tokenizer);
  const heads = new Uint8Array(config.n_layer * config.n_head);
  const buttons = [...document.querySelectorAll("[data-head]")];
  const given = byId("given"), stop = byId("stop");
  const told = { status: () => say("loading"), speed: () => "" };
  let readers = null, turn = 0, typing;

  function tell(place, words_) { told[place] = words_; byId(place).textContent = words_(); }

  function showBoard() {
    buttons.forEach((button, i) => {
      button.className = `m${heads[i]}`;
      button.textContent = SIGNS[heads[i]];
      button.setAttribute("aria-label", `L${Math.floor(i / config.n_head)}H${i % config.n_head}: ${say(NAMES[heads[i]])}`);
    });
  }

  // A token as a reader can see it; only ever set as text.
  const visible = (id) => tokenizer.decode([id]).replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "∅";

  function showSide(side, reader, length) {
    const place = (name) => document.querySelector(`#${side} [data-show=${name}]`);
    place("ppl").textContent = three(reader.ppl(length));
    place("ppl").dataset.exact = String(reader.ppl(length));
    place("next").replaceChildren(...reader.next(SHOWN).map(({ id, p }) => {
      const item = document.createElement("li"), token = document.createElement("code"), share = document.createElement("span"), bar = document.createElement("meter");
      token.textContent = visible(id);
      share.textContent = `${(100 * p).toFixed(1)}%`;
      bar.value = p;
      bar.setAttribute("aria-hidden", "true");
      item.append(token, bar, share);
      return item;
    }));
  }

  function tokensGiven() {
    const all = tokenizer.encode(given.value);
    return { tokens: all.slice(0, config.n_positions), cut: all.length > config.n_positions };
  }

  // Reads the text under both models and shows what they make of it; a newer turn ends an older one.
  async function update() {
    const own = turn += 1, wanted = () => own === turn;
    if (!readers) return false;
    stop.disabled = true;
    tell("status", () => say("reading"));
    tell("speed", () => "");
    const { tokens, cut } = tokensGiven();
    document.querySelectorAll("[data-show=continuation]").forEach((place) => { place.textContent = ""; });
    if (!tokens.length) { tell("status", () => ""); return false; }
    readers.changed.setHeads(heads);
    for (const [side, reader] of Object.entries(readers)) {
      if (!await reader.read(tokens, wanted) || !wanted()) return false;
      showSide(side, reader, tokens.length);
    }
    const [before, after] = Object.values(readers).map((reader) => three(reader.ppl(tokens.length)));
    const n = heads.filter(Boolean).length;
    tell("status", () => say("ready", { tokens: tokens.length, n, before, after }) + (cut ? ` ${say("too_long", { n: tokens.length })}` : ""));
    return true;
  }

  async function goOn() {
    clearTimeout(typing);
    if (!await update()) return;
    const own = turn, end = data.tokenizer.special["<|endoftext|>"], length = tokensGiven().tokens.length;
    stop.disabled = false;
    let count = 0;
    const started = performance.now(), open = new Set(Object.keys(readers));
    for (let i = 0; i < NEW_TOKENS && open.size; i += 1) {
      for (const side of open) {
        const reader = readers[side], token = reader.greedy();
        if (token === end || reader.tokens.length >= config.n_positions) { open.delete(side); continue; }
        reader.take(token);
        count += 1;
        document.querySelector(`#${side} [data-show=continuation]`).textContent = tokenizer.decode(reader.tokens.slice(length));
      }
      await breathe();
      if (own !== turn) return;
    }
    const rate = three(1000 * count / (performance.now() - started));
    if (count) tell("speed", () => say("speed", { rate }));
    stop.disabled = true;
  }

  function setLanguage(lang) {
    root.lang = root.dataset.lang = lang;
    try { localStorage.setItem("lang", lang); } catch { /* a page from a file may not remember */ }
    document.title = say("title");
    document.querySelectorAll("[data-set-lang]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.setLang === lang)));
    showBoard();
    for (const [place, words_] of Object.entries(told)) byId(place).textContent = words_();
  }

  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -config.n_head, ArrowDown: config.n_head };
  byId("board").addEventListener("keydown", (event) => {
    const at = buttons.indexOf(event.target), to = at + (moves[event.key] || 0);
    if (at < 0 || !moves[event.key]) return;
    event.preventDefault();
    if (buttons[to]) { buttons[to].focus(); }
  });
  byId("board").addEventListener("focusin", (event) => buttons.forEach((button) => { button.tabIndex = button === event.target ? 0 : -1; }));
  byId("board").addEventListener("click", (event) => {
    const at = buttons.indexOf(event.target);
    if (at < 0) return;
    heads[at] = (heads[at] + 1) % NAMES.length;
    showBoard();
    update();
  });
  document.querySelectorAll("[data-all]").forEach((button) => button.addEventListener("click", () => { heads.fill(Number(button.dataset.all)); showBoard(); update(); }));
  document.querySelectorAll("[data-set-lang]").forEach((button) => button.addEventListener("click", () => setLanguage(button.dataset.setLang)));
  given.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(update, 200); });
  byId("go-on").addEventListener("click", goOn);
  stop.addEventListener("click", () => { turn += 1; stop.disabled = true; });

  given.value ||= "class Reader:\n    def __init__(self, name):\n        self.name = name\n\n    def read(self";
  setLanguage(root.dataset.lang);
  const ready = Gpt2.unpack(byId("weights").textContent, data.index, config).then((model) => {
    readers = { untouched: new Reader(model), changed: new Reader(model) };
    byId("go-on").disabled = false;
    return update().then(() => model);
  });
  ready.catch((error) => { tell("status", () => say("failed", { why: error.message })); });
  return { ready, tokenizer };
})();
