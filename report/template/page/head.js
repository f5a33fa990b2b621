"use strict";
// Runs before anything is painted: the language and the theme stand when the text appears.
(() => {
  const root = document.documentElement;
  const known = (lang) => (lang === "ja" || lang === "en" ? lang : null);
  const remembered = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const asked = known(new URLSearchParams(location.search).get("lang")) || known((/^#(?:lang=)?(ja|en)$/.exec(location.hash) || [])[1]);
  root.lang = root.dataset.lang = asked || known(remembered("lang")) || (/^ja\b/.test(navigator.language) ? "ja" : "en");
  const theme = remembered("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;

  // What is off the first screen waits for the first frame, unless the address names a place in it.
  const painted = () => { root.dataset.painted = ""; };
  new PerformanceObserver((seen) => { if (seen.getEntriesByName("first-contentful-paint").length) painted(); }).observe({ type: "paint", buffered: true });
  addEventListener("load", painted);
  if (location.hash) painted();
})();
