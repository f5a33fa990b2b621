"use strict";
// Pointing at a reference to a figure, a table, a section or a source shows what it names.
(() => {
  const card = document.createElement("div");
  card.id = "preview";
  card.setAttribute("aria-hidden", "true");
  card.hidden = true;
  document.body.append(card);
  let timer;

  function contentOf(id) {
    const target = document.getElementById(id);
    if (!target) return null;
    window.unfold(target);
    if (/^(fig|tab)-/.test(id) || target.classList.contains("reference")) return target.cloneNode(true);
    if (!id.startsWith("sec-")) return null;
    const lang = document.documentElement.dataset.lang;
    const parts = [...target.querySelectorAll(`:scope > .${lang}`)].slice(0, 2);
    const box = document.createElement("div");
    box.append(...parts.map((part) => part.cloneNode(true)));
    return box;
  }

  function show(link) {
    const found = contentOf(decodeURIComponent(link.hash.slice(1)));
    if (!found) return;
    found.removeAttribute("id");
    found.querySelectorAll("[id]").forEach((node) => node.removeAttribute("id"));
    found.querySelectorAll("a, button, summary, [tabindex]").forEach((node) => { node.removeAttribute("href"); node.tabIndex = -1; });
    found.querySelectorAll(".menu").forEach((node) => node.remove());
    card.replaceChildren(found);
    card.hidden = false;
    card.style.left = 0;
    const place = link.getBoundingClientRect(), size = card.getBoundingClientRect();
    const below = place.bottom + size.height + 12 < innerHeight || place.top < size.height + 12;
    card.style.top = `${below ? place.bottom + 8 : place.top - size.height - 8}px`;
    card.style.left = `${Math.max(8, Math.min(place.left, innerWidth - size.width - 8))}px`;
  }
  const hide = () => { clearTimeout(timer); card.hidden = true; };
  const linkOf = (event) => event.target.closest && event.target.closest('main a[href^="#fig-"], main a[href^="#tab-"], main a[href^="#sec-"], main a[href^="#ref-"]');
  document.addEventListener("pointerover", (event) => {
    const link = event.pointerType !== "touch" && linkOf(event);
    hide();
    if (link) timer = setTimeout(() => show(link), 250);
  });
  document.addEventListener("focusin", (event) => { const link = linkOf(event); hide(); if (link && link.matches(":focus-visible")) show(link); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", () => { card.hidden = true; }, { passive: true });
})();
