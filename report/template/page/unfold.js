"use strict";
// Most drawings and all code stand in the page as text, in `noscript`: reading them as markup at once would hold the page
// up. They become elements when they are asked for, and by and by when the browser has nothing else to do.
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

  const later = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  const rest = () => {
    const [next] = folded(document.querySelector("main"));
    if (!next) return;
    unfold(next.parentElement);
    later(rest);
  };
  addEventListener("load", () => later(rest));
  addEventListener("beforeprint", () => unfold(document.body));
  document.addEventListener("toggle", (event) => { if (event.target.open) unfold(event.target); }, true);
})();
