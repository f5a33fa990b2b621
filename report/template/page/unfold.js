"use strict";
// Contents, drawings, tables and code stand in the page as text, in `noscript`: reading all as markup at once would hold
// the page up. They become elements after the first frame, when they come near or are asked for, and by and by when the
// browser has nothing else to do.
(() => {
  const folded = (root) => [...root.querySelectorAll("noscript")];
  function unfold(root) {
    for (const node of folded(root)) {
      const box = document.createElement("template");
      box.innerHTML = node.textContent;
      node.replaceWith(box.content);
    }
  }
  window.unfold = unfold;

  // The element of this id, unfolded where it has to be.
  window.elementOf = (id) => {
    const holder = document.getElementById(id) ? null : folded(document.body).find((node) => node.textContent.includes(`id="${id}"`));
    if (holder) unfold(holder.parentElement);
    return document.getElementById(id);
  };

  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      unfold(target);
    }
  }, { rootMargin: "600px" });
  folded(document.body).forEach((node) => near.observe(node.parentElement));

  const later = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  const rest = () => {
    const [next] = folded(document.body);
    if (!next) return;
    unfold(next.parentElement);
    later(rest);
  };
  addEventListener("load", () => later(rest));
  addEventListener("beforeprint", () => unfold(document.body));
  document.addEventListener("toggle", (event) => { if (event.target.open) unfold(event.target); }, true);
})();
