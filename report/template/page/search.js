"use strict";
// Finds words in the text of the language that is shown; the first hits of each section, with what stands around them.
(() => {
  const box = document.getElementById("search"), list = document.getElementById("found");
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  let index = null, indexed = null;

  function build(lang) {
    indexed = lang;
    index = [];
    for (const section of document.querySelectorAll("main section[id]")) {
      const heading = section.querySelector(`:scope > .${lang}:is(h2, h3), :scope > .${lang} :is(h2, h3)`);
      if (!heading) continue;
      for (const node of section.querySelectorAll(`:scope > .${lang} :is(p, li, h3, h4), :scope > figure.${lang} figcaption`)) {
        if (node.closest("section") === section) index.push({ section, heading: heading.textContent, node, text: node.textContent.replace(/\s+/g, " ") });
      }
    }
  }

  function look() {
    const lang = document.documentElement.dataset.lang, wanted = plain(box.value.trim());
    list.replaceChildren();
    list.hidden = wanted.length < (lang === "ja" ? 1 : 2);
    if (list.hidden) return;
    if (indexed !== lang) build(lang);
    const hits = index.filter((entry) => plain(entry.text).includes(wanted)).slice(0, 12);
    for (const hit of hits) {
      const at = plain(hit.text).indexOf(wanted);
      const item = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      const where = document.createElement("b");
      where.textContent = hit.heading;
      button.append(where, ` ${at > 30 ? "…" : ""}${hit.text.slice(Math.max(0, at - 30), at + 60)}…`);
      button.addEventListener("click", () => {
        list.hidden = true;
        hit.node.scrollIntoView({ block: "center" });
        hit.node.classList.add("hit");
        setTimeout(() => hit.node.classList.remove("hit"), 2500);
      });
      item.append(button);
      list.append(item);
    }
    if (!hits.length) {
      const none = document.createElement("li");
      none.textContent = list.dataset[lang];
      list.append(none);
    }
  }
  box.addEventListener("input", look);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { box.value = ""; look(); }
    if (event.key === "ArrowDown" && list.querySelector("button")) { event.preventDefault(); list.querySelector("button").focus(); }
  });
  document.addEventListener("click", (event) => { if (!event.target.closest(".search")) list.hidden = true; });
})();
