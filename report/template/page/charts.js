"use strict";
// A chart stands as a drawing and comes alive, with its tooltips, when a reader points at it, and on a narrow screen
// when it comes into view, where it is drawn anew at that width. A head that is pointed at lights up in every figure
// that shows it, and stays lit while the reader scrolls, until another one is pointed at or it is put out.
(() => {
  let library = null;
  let head = "";
  const views = new Map();
  const chip = document.createElement("button");
  chip.className = "lit";
  chip.hidden = true;
  document.body.append(chip);
  chip.addEventListener("click", () => light(""));
  addEventListener("keydown", (event) => { if (event.key === "Escape") light(""); });

  function light(name) {
    if (name === head) return;
    head = name;
    chip.hidden = !name;
    chip.textContent = name && `${name} ✕`;
    chip.setAttribute("aria-label", document.documentElement.lang === "ja" ? `${name}の強調を消す` : `Stop highlighting ${name}`);
    for (const [plot, view] of views) if (plot.isConnected) view.signal("lit", head).runAsync();
    if (head) near.forEach((plot) => { if (!plot.dataset.drawn) enliven(plot); });
  }
  function vega() {
    return library ||= unpacked("vega").then((code) => {
      const script = document.createElement("script");
      script.textContent = code;
      document.head.append(script);
      return window.vegaEmbed;
    });
  }

  let specs = null;
  window.chartSpec = async (plot) => {
    specs ||= unpacked("charts").then(JSON.parse);
    return structuredClone((await specs)[plot.dataset.chart]);
  };

  // What stands in the page as base64 of gzip, as text.
  function unpacked(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (sign) => sign.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  async function enliven(plot) {
    const width = Math.floor(plot.clientWidth);
    if (!width || plot.dataset.width === String(width)) return;
    plot.dataset.width = width;
    const spec = await window.chartSpec(plot);
    if (width < (spec.width || 600) + 80) {
      if (spec.concat) {
        spec.columns = 1;
        for (const panel of spec.concat) panel.width = width - 70;
      } else {
        spec.autosize = { type: "fit-x", contains: "padding" };
        spec.width = width;
      }
      spec.config.legend.columns = Math.max(1, Math.floor(width / 170));
      spec.config.legend.labelLimit = width - 60;
      spec.config.legend.layout = { top: { direction: "vertical", anchor: "start", margin: 4 } };
    }
    const live = document.createElement("div");
    try {
      await document.fonts.load('12px "IPAexGothic"', "図あ");
      const { view } = await (await vega())(live, spec, {
        ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true },
      });
      if ((spec.params || []).some((param) => param.name === "lit")) {
        views.set(plot, view);
        view.addEventListener("pointerover", (_, item) => {
          if (item && item.datum && item.datum.head_name) light(item.datum.head_name);
        });
        await view.signal("lit", head).runAsync();
      }
      // the plot itself bears the role and the description
      live.querySelectorAll("svg, svg *").forEach((mark) => {
        for (const name of ["role", "aria-roledescription", "aria-label"]) mark.removeAttribute(name);
      });
      plot.replaceChildren(live);
      plot.dataset.drawn = "yes";
    } catch (error) {
      plot.dataset.drawn = "no";
      console.error(plot.dataset.chart, error);
    }
  }

  const isNarrow = () => matchMedia("(max-width: 44rem)").matches;
  const plots = document.querySelectorAll(".plot");
  const near = new Set();
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      near[isIntersecting ? "add" : "delete"](target);
      if (isIntersecting && (isNarrow() || head)) enliven(target);
    }
  }, { rootMargin: "200px" });
  for (const plot of plots) {
    seen.observe(plot);
    for (const event of ["pointerenter", "focusin"]) plot.addEventListener(event, () => enliven(plot), { passive: true });
  }
  let resizing;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => plots.forEach((plot) => { if (plot.dataset.drawn || isNarrow()) enliven(plot); }), 200);
  });
})();
