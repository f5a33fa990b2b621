"use strict";
// Language, theme, contents, and the way from a link to what it names.
(() => {
  const root = document.documentElement;
  const titles = JSON.parse(document.getElementById("titles").textContent);
  const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* a page from a file may not remember */ } };
  const known = (lang) => (lang === "ja" || lang === "en" ? lang : null);
  const fromAddress = () => known(new URLSearchParams(location.search).get("lang"))
    || known((/^#(?:lang=)?(ja|en)$/.exec(location.hash) || [])[1]);

  function showLanguage(lang) {
    root.lang = root.dataset.lang = lang;
    document.title = titles[lang];
    document.querySelectorAll("[data-set-lang]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.setLang === lang)));
  }

  function setLanguage(lang, chosen) {
    const before = sectionInView();
    showLanguage(lang);
    if (chosen) {
      remember("lang", lang);
      try {
        const address = new URL(location.href);
        address.searchParams.set("lang", lang);
        history.replaceState(null, "", address);
      } catch { /* some browsers do not let a page from a file change its address */ }
    }
    if (before && before.section.isConnected) scrollBy(0, before.section.getBoundingClientRect().top - before.top);
  }

  function sectionInView() {
    if (scrollY < 200) return null;
    const sections = [...document.querySelectorAll("main section")].filter((s) => s.getBoundingClientRect().top < 120);
    const section = sections[sections.length - 1];
    return section ? { section, top: section.getBoundingClientRect().top } : null;
  }

  function reveal() {
    let id;
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const folded = id && !document.getElementById(id);
    const target = id && window.elementOf(id);
    if (!target) return;
    if (folded) location.replace(location.hash);  // what was not there yet is the address's target now
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    // What stands above takes its own height only once it is near: the place is right after a few frames.
    const arrive = (frames) => {
      target.scrollIntoView({ block: target.classList.contains("r") ? "center" : "start" });
      if (frames) requestAnimationFrame(() => arrive(frames - 1));
    };
    arrive(3);
  }

  // A section out of view has not been laid out, and asking where something in it stands would do it: so the section is
  // asked first, and a heading only where its section is in view.
  function followContents() {
    const entries = { ja: [], en: [] };
    const listed = (lang) => [...document.querySelectorAll(`.toc.${lang} a`)].map((link) => {
      const heading = document.getElementById(link.hash.slice(1));
      return { link, heading, section: heading.closest("section, footer") };
    });
    const passed = ({ heading, section }, line) => {
      const place = section.getBoundingClientRect();
      return place.top < line && (place.bottom < line || heading.getBoundingClientRect().top < line);
    };
    let waiting = false, current = null;
    const update = () => {
      waiting = false;
      const lang = root.dataset.lang;
      const shown = entries[lang].length ? entries[lang] : (entries[lang] = listed(lang));
      const found = shown.findLast((entry) => passed(entry, innerHeight / 4)) || shown[0];
      if (!found || found === current) return;
      if (current) current.link.removeAttribute("aria-current");
      current = found;
      current.link.setAttribute("aria-current", "true");
      const list = current.link.closest(".toc");
      if (getComputedStyle(list).position === "sticky") list.scrollTop = Math.max(0, current.link.offsetTop - list.clientHeight / 2);
    };
    const ask = () => { if (!waiting) { waiting = true; requestAnimationFrame(update); } };
    addEventListener("scroll", ask, { passive: true });
    addEventListener("resize", ask);
    const changes = new MutationObserver(ask);  // another language, or a list that has unfolded
    changes.observe(root, { attributes: true, attributeFilter: ["data-lang"] });
    document.querySelectorAll(".toc details").forEach((list) => changes.observe(list, { childList: true }));
    ask();
  }

  document.querySelectorAll("[data-set-lang]").forEach((b) => b.addEventListener("click", () => setLanguage(b.dataset.setLang, true)));
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember("theme", root.dataset.theme);
  });
  const code = document.getElementById("all-code");
  code.setAttribute("aria-pressed", "false");
  code.addEventListener("click", () => {
    const open = code.getAttribute("aria-pressed") !== "true";
    code.setAttribute("aria-pressed", String(open));
    document.querySelectorAll("details.code").forEach((d) => { window.unfold(d); d.open = open; });
  });
  if (matchMedia("(max-width: 62rem)").matches) document.querySelectorAll(".toc details").forEach((d) => { d.open = false; });
  showLanguage(root.dataset.lang);
  addEventListener("hashchange", () => { const lang = fromAddress(); if (lang && lang !== root.dataset.lang) setLanguage(lang, false); reveal(); });
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest('a[href^="#"]');
    if (link && link.getAttribute("href") === location.hash) setTimeout(reveal);
  });
  // What can be scrolled takes the keyboard's focus; what fits needs no stop. Sizes off the screen are not observed: what
  // is opened there is looked at in the next frame.
  const scrolls = ".scroll, .quote pre";
  const stop = (node) => {
    if (node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1) node.tabIndex = 0;
    else node.removeAttribute("tabindex");
  };
  const stops = new ResizeObserver((entries) => entries.forEach(({ target }) => stop(target)));
  document.querySelectorAll(scrolls).forEach((node) => { node.removeAttribute("tabindex"); stops.observe(node); });
  document.addEventListener("toggle", ({ target }) => { if (target.open) requestAnimationFrame(() => target.querySelectorAll(scrolls).forEach(stop)); }, true);
  followContents();
  reveal();
})();
