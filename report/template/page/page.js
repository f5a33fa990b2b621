"use strict";
(() => {
  const root = document.documentElement;
  const titles = JSON.parse(document.getElementById("titles").textContent);
  const remembered = {
    get(key) { try { return localStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, value); } catch { /* a page from a file may not remember */ } },
  };
  const known = (lang) => (lang === "ja" || lang === "en" ? lang : null);
  const fromAddress = () => known(new URLSearchParams(location.search).get("lang"))
    || known((/^#(?:lang=)?(ja|en)$/.exec(location.hash) || [])[1]);

  function draw(plot) {
    const width = Math.floor(plot.clientWidth);
    if (!width || plot.dataset.width === String(width)) return;
    plot.dataset.width = width;
    const spec = JSON.parse(document.getElementById(plot.dataset.chart).textContent);
    if (width < spec.width + 80) {
      spec.autosize = { type: "fit-x", contains: "padding" };
      spec.width = width;
      spec.config.legend.columns = Math.max(1, Math.floor(width / 170));
      spec.config.legend.labelLimit = width - 60;
    }
    vegaEmbed(plot, spec, {
      ast: true, actions: false, renderer: "svg", defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
    }).then(
      () => {
        // the plot itself bears the role and the description
        plot.querySelectorAll("svg, svg *").forEach((mark) => {
          for (const name of ["role", "aria-roledescription", "aria-label"]) mark.removeAttribute(name);
        });
        plot.dataset.drawn = "yes";
      },
      (error) => { plot.dataset.drawn = "no"; console.error(plot.dataset.chart, error); },
    );
  }
  let fontsReady = false;
  const drawAll = () => { if (fontsReady) document.querySelectorAll(".plot").forEach(draw); };

  function setLanguage(lang, chosen) {
    const before = anchorInView();
    root.dataset.lang = lang;
    root.lang = lang;
    document.title = titles[lang];
    document.querySelectorAll("[data-set-lang]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.setLang === lang)));
    if (chosen) {
      remembered.set("lang", lang);
      try {
        const address = new URL(location.href);
        address.searchParams.set("lang", lang);
        history.replaceState(null, "", address);
      } catch { /* some browsers do not let a page from a file change its address */ }
    }
    drawAll();
    if (before && before.section.isConnected) scrollBy(0, before.section.getBoundingClientRect().top - before.top);
  }

  function anchorInView() {
    const sections = [...document.querySelectorAll("main section")].filter((s) => s.getBoundingClientRect().top < 120);
    const section = sections[sections.length - 1];
    return section && root.dataset.lang ? { section, top: section.getBoundingClientRect().top } : null;
  }

  function setTheme(theme) {
    if (theme) root.dataset.theme = theme;
  }

  function reveal() {
    let id;
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const target = document.getElementById(id);
    if (!target) return;
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    target.scrollIntoView({ block: target.classList.contains("r") ? "center" : "start" });
  }

  function followContents() {
    const links = new Map([...document.querySelectorAll(".toc a")].map((a) => [a.hash.slice(1), a]));
    const headings = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
    let waiting = false;
    const update = () => {
      waiting = false;
      const visible = headings.filter((h) => h.offsetParent !== null);
      const current = visible.filter((h) => h.getBoundingClientRect().top < innerHeight / 4).pop() || visible[0];
      for (const [id, link] of links) {
        if (current && id === current.id) {
          if (link.getAttribute("aria-current")) continue;
          link.setAttribute("aria-current", "true");
          const list = link.closest(".toc");
          if (getComputedStyle(list).position === "sticky") {
            const offset = link.offsetTop - list.clientHeight / 2;
            list.scrollTop = Math.max(0, offset);
          }
        } else link.removeAttribute("aria-current");
      }
    };
    const ask = () => { if (!waiting) { waiting = true; requestAnimationFrame(update); } };
    addEventListener("scroll", ask, { passive: true });
    addEventListener("resize", ask);
    new MutationObserver(ask).observe(root, { attributes: true, attributeFilter: ["data-lang"] });
    update();
  }

  document.querySelector(".controls").hidden = false;
  document.querySelectorAll("[data-set-lang]").forEach((b) => b.addEventListener("click", () => setLanguage(b.dataset.setLang, true)));
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
    remembered.set("theme", root.dataset.theme);
  });
  const code = document.getElementById("all-code");
  code.setAttribute("aria-pressed", "false");
  code.addEventListener("click", () => {
    const open = code.getAttribute("aria-pressed") !== "true";
    code.setAttribute("aria-pressed", String(open));
    document.querySelectorAll("details.code").forEach((d) => { d.open = open; });
  });
  if (matchMedia("(max-width: 62rem)").matches) document.querySelectorAll(".toc details").forEach((d) => { d.open = false; });
  setTheme(remembered.get("theme"));
  setLanguage(fromAddress() || known(remembered.get("lang")) || (/^ja\b/.test(navigator.language) ? "ja" : "en"), false);
  addEventListener("hashchange", () => { const lang = fromAddress(); if (lang && lang !== root.dataset.lang) setLanguage(lang, false); reveal(); });
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest('a[href^="#"]');
    if (link && link.getAttribute("href") === location.hash) setTimeout(reveal);
  });
  let resizing;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawAll, 200); });
  document.fonts.load('12px "IPAexGothic"', "図あa").finally(() => {
    fontsReady = true;
    drawAll();
    followContents();
    reveal();
  });
})();
