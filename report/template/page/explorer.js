"use strict";
// The explorer: choices and sliders over the measured ladders. Everything shown is read from them; the state stands in
// the address as #explore=mode,tokens,heads,limit.
(() => {
  const { ladders, modes, words } = JSON.parse(document.getElementById("explore-data").textContent);
  const box = document.getElementById("explore"), chart = document.getElementById("explore-chart");
  const heads = document.getElementById("explore-heads"), limit = document.getElementById("explore-limit");
  const radios = (name) => [...box.querySelectorAll(`input[name=explore-${name}]`)];
  const ladderOf = (mode, tokens) => ladders.find((ladder) => ladder.mode === mode && ladder.tokens === tokens);
  const lang = () => document.documentElement.dataset.lang;
  const say = (key, values = {}) => words[key][lang()].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  let ladder = null, wanted = null;

  // Three significant digits, and never an exponent.
  function digits(value) {
    if (value === null || value === undefined) return "—";
    const text = Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value === 0 ? "0" : value.toPrecision(3);
    return (/e/.test(text) ? Number(text).toFixed(6).replace(/0+$/, "") : text).replace("-", "−");
  }
  const decimals = (value, count) => (value === null ? "—" : value.toFixed(count).replace("-", "−"));
  const percent = (value) => `${decimals(100 * value, 1)}%`;

  // The last rung whose ratio is within the limit, as the thresholds of the report.
  const rung = (ratios) => ladder.rows.reduce((last, row, i) => (ratios[i] <= Number(limit.value) ? Math.max(last, row.n) : last), 0);
  // Where the ratio passes the limit for good: ln ratio straight between rungs, made monotone from the right.
  function crossing(ratios) {
    const height = ratios.map((ratio) => Math.log(ratio) - Math.log(Number(limit.value)));
    for (let i = height.length - 2; i >= 0; i -= 1) height[i] = Math.min(height[i], height[i + 1]);
    const below = height.filter((value) => value <= 0).length - 1, ns = ladder.rows.map((row) => row.n);
    if (below < 0) return 0;
    if (below === ns.length - 1) return ns[below];
    return ns[below] + (-height[below] / (height[below + 1] - height[below])) * (ns[below + 1] - ns[below]);
  }
  const edge = (side) => ladder.rows.map((row) => (row.ratio_ci ? row.ratio_ci[side] ?? (side ? Infinity : 0) : row.ratio));

  function figures(row) {
    const own = ladder.rows.map((r) => r.ratio), whole = (value) => String(value);
    const within = (of, form) => ({ exact: of(own), text: form(of(own)), interval: [of(edge(1)), of(edge(0))].map(form) });
    const tokens = (value, n) => ({ exact: value, text: value === null ? (n && ladder.rows.some((r) => r.extra_model !== null) ? say("unlimited") : "—") : whole(value) });
    return {
      ppl: { exact: row.ppl, text: digits(row.ppl), interval: row.ppl_ci && row.ppl_ci.map(digits) },
      ratio: { exact: row.ratio, text: digits(row.ratio), interval: row.ratio_ci && row.ratio_ci.map(digits) },
      rung: within(rung, whole),
      crossing: within(crossing, (value) => decimals(value, 1)),
      saved_attention: { exact: row.saved_attention, text: percent(row.saved_attention) },
      saved_model: { exact: row.saved_model, text: percent(row.saved_model) },
      extra_attention: tokens(row.extra_attention, row.n),
      extra_model: tokens(row.extra_model, row.n),
    };
  }

  function draw(row) {
    const [left, right, top, bottom] = [46, 626, 14, 214];
    const most = Math.max(3, 1.1 * row.ratio), least = Math.min(0.9, ...ladder.rows.map((r) => 0.98 * r.ratio));
    const last = ladder.rows[ladder.rows.length - 1].n || 1;
    const x = (n) => left + ((right - left) * n) / last;
    const y = (ratio) => {
      const share = (Math.log(ratio) - Math.log(least)) / (Math.log(most) - Math.log(least));
      return bottom - (bottom - top) * Math.max(-0.5, Math.min(2, share));
    };
    const mark = (name, attributes, text) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      if (text !== undefined) node.textContent = text;
      return node;
    };
    const path = (points) => points.map(([n, ratio], i) => `${i ? "L" : "M"}${x(n).toFixed(1)} ${y(ratio).toFixed(1)}`).join("");
    const clip = mark("clipPath", { id: "explore-clip" });
    clip.append(mark("rect", { x: left, y: top - 6, width: right - left + 8, height: bottom - top + 6 }));
    const ticks = [0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000].filter((value) => value >= least && value <= most);
    const inside = mark("g", { "clip-path": "url(#explore-clip)" });
    const low = ladder.rows.map((r, i) => [r.n, Math.max(edge(0)[i], 1e-3)]), high = ladder.rows.map((r, i) => [r.n, Math.min(edge(1)[i], 1e6)]);
    inside.append(
      mark("path", { class: "band", d: `${path(low)}${path(high.reverse()).replace("M", "L")}Z` }),
      mark("path", { class: "line", d: path(ladder.rows.map((r) => [r.n, r.ratio])) }),
      mark("path", { class: "limit", d: path([[0, Number(limit.value)], [last, Number(limit.value)]]) }),
      ...ladder.rows.map((r) => mark("circle", { class: "rung", cx: x(r.n), cy: y(r.ratio), r: 2.5 })),
      mark("circle", { class: "now", cx: x(row.n), cy: y(row.ratio), r: 6 }),
    );
    chart.replaceChildren(
      clip,
      ...ticks.flatMap((value) => [
        mark("path", { class: "grid", d: `M${left} ${y(value)}H${right}` }),
        mark("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value}×`),
      ]),
      ...[0, 0.25, 0.5, 0.75, 1].map((share) => mark("text", { x: x(share * last), y: bottom + 18, "text-anchor": "middle" }, String(Math.round(share * last)))),
      inside,
      mark("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, say("heads")),
    );
    chart.setAttribute("aria-label", say("chart"));
  }

  function show() {
    const row = ladder.rows[Number(heads.value)], bound = Number(limit.value).toFixed(2);
    const n = say("some_heads", { n: row.n });
    document.getElementById("explore-heads-now").textContent = n;
    document.getElementById("explore-limit-now").textContent = `${bound}×`;
    heads.setAttribute("aria-valuetext", n);
    limit.setAttribute("aria-valuetext", `${bound}×`);
    for (const [key, { exact, text, interval }] of Object.entries(figures(row))) {
      const place = box.querySelector(`[data-figure=${key}]`);
      const span = document.createElement("span");
      span.dataset.exact = span.title = String(exact);
      span.textContent = text;
      place.replaceChildren(span);
      if (interval) {
        const around = document.createElement("span");
        around.className = "ci";
        around.textContent = ` [${interval.join(", ")}]`;
        place.append(around);
      }
    }
    const mode = modes[ladder.mode][lang()], tokens = say(ladder.tokens);
    const sentence = say(row.ratio <= Number(limit.value) ? "within" : "beyond", { mode, n: row.n, tokens, ratio: digits(row.ratio), limit: bound });
    const said = document.getElementById("explore-said");
    if (said.textContent !== sentence) said.textContent = sentence;
    draw(row);
  }

  // The ladder of the choices, on the rung nearest below `n`; tokens that a mode was not measured on can't be chosen,
  // and are back with the next mode that was measured on them.
  function choose(mode, tokens, n) {
    wanted = tokens;
    ladder = ladderOf(mode, tokens) || ladders.find((other) => other.mode === mode);
    for (const radio of radios("mode")) radio.checked = radio.value === ladder.mode;
    for (const radio of radios("tokens")) {
      radio.checked = radio.value === ladder.tokens;
      radio.disabled = !ladderOf(ladder.mode, radio.value);
    }
    heads.max = ladder.rows.length - 1;
    heads.value = Math.max(0, ladder.rows.filter((row) => row.n <= n).length - 1);
    show();
  }

  let writing;
  function keep() {
    clearTimeout(writing);
    writing = setTimeout(() => {
      const state = [ladder.mode, ladder.tokens, ladder.rows[Number(heads.value)].n, Number(limit.value).toFixed(2)];
      try { history.replaceState(null, "", `#explore=${state.join(",")}`); } catch { /* a page from a file may not */ }
    }, 150);
  }

  function fromAddress() {
    const [, state] = /^#explore=([\w.,]+)$/.exec(location.hash) || [];
    if (!state) return false;
    const [mode, tokens, n, bound] = state.split(",");
    if (!ladders.some((other) => other.mode === mode)) return false;
    if (Number(bound)) limit.value = Number(bound);
    choose(mode, tokens, Number(n) || 0);
    return true;
  }

  const current = () => ladder.rows[Number(heads.value)].n;
  for (const radio of radios("mode")) radio.addEventListener("change", () => { choose(radio.value, wanted, current()); keep(); });
  for (const radio of radios("tokens")) radio.addEventListener("change", () => { choose(ladder.mode, radio.value, current()); keep(); });
  for (const slider of [heads, limit]) slider.addEventListener("input", () => { show(); keep(); });
  new MutationObserver(show).observe(document.documentElement, { attributes: true, attributeFilter: ["data-lang"] });
  const arrive = () => { if (fromAddress()) document.getElementById("explorer").scrollIntoView(); };
  addEventListener("hashchange", arrive);
  limit.value = 1.1;
  choose(ladders[0].mode, ladders[0].tokens, 0);
  heads.value = Math.max(0, ladder.rows.findIndex((row) => row.n === rung(ladder.rows.map((r) => r.ratio))));
  show();
  arrive();
})();
