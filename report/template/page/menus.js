"use strict";
// What stands behind a figure or a table, to take along: made here, from what the page holds.
(() => {
  const about = JSON.parse(document.getElementById("about").textContent);
  const rowsOf = async (figure) => (figure.classList.contains("table") ? tableRows(figure) : chartRows(figure));

  function tableRows(figure) {
    const table = figure.querySelector("table");
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    return [...table.tBodies[0].rows].map((row) => {
      const found = {};
      [...row.cells].forEach((cell, i) => {
        const exact = cell.querySelector("[data-exact]");
        const interval = cell.querySelector(".ci");
        const shown = (cell.querySelector("[data-exact]") || cell).firstChild;
        found[heads[i]] = exact ? Number(exact.dataset.exact) : (shown ? shown.textContent.trim() : "");
        if (interval) found[`${heads[i]} [95%]`] = interval.textContent.trim();
      });
      return found;
    });
  }

  async function chartRows(figure) {
    const rows = [];
    const collect = (node) => {
      if (Array.isArray(node)) node.forEach(collect);
      else if (node && typeof node === "object") {
        if (node.data && Array.isArray(node.data.values)) rows.push(...node.data.values.filter((row) => !rows.includes(row)));
        for (const [key, value] of Object.entries(node)) if (key !== "data") collect(value);
      }
    };
    const spec = await window.chartSpec(figure.querySelector(".plot"));
    for (const values of Object.values(spec.datasets || {})) rows.push(...values);
    collect(spec);
    return rows;
  }

  // A cell that a spreadsheet would take for a formula is quoted.
  const guarded = (text) => (/^[=+\-@\t\r]/.test(text) && !Number.isFinite(Number(text)) ? `'${text}` : text);
  const csvCell = (value) => {
    const text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : guarded(String(value));
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  async function csv(figure) {
    const rows = await rowsOf(figure);
    const keys = [...new Set(rows.flatMap(Object.keys))];
    const head = Object.entries({ ...about, item: figure.dataset.name }).map(([key, value]) => `# ${key}: ${String(value).replace(/\s+/g, " ")}`);
    return [...head, keys.map(csvCell).join(","), ...rows.map((row) => keys.map((key) => csvCell(row[key])).join(","))].join("\r\n") + "\r\n";
  }
  const json = async (figure) =>
    JSON.stringify({ about: { ...about, item: figure.dataset.name }, rows: await rowsOf(figure) }, null, 1) + "\n";

  function svg(figure) {
    const drawing = figure.querySelector(".plot svg").cloneNode(true);
    drawing.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    drawing.setAttribute("color", "#1c1f23");
    const note = document.createElementNS("http://www.w3.org/2000/svg", "desc");
    note.textContent = JSON.stringify({ ...about, item: figure.dataset.name });
    drawing.prepend(note);
    return new XMLSerializer().serializeToString(drawing);
  }
  function png(figure) {
    return new Promise((resolve, reject) => {
      const drawing = figure.querySelector(".plot svg");
      const box = drawing.viewBox.baseVal;
      const picture = new Image();
      picture.onload = () => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [2 * box.width, 2 * box.height];
        const pen = canvas.getContext("2d");
        pen.fillStyle = "#fff";
        pen.fillRect(0, 0, canvas.width, canvas.height);
        pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
        canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/png");
      };
      picture.onerror = () => reject(new Error("no picture"));
      picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg(figure))}`;
    });
  }

  const makers = {
    csv: async (figure) => new Blob(["\ufeff", await csv(figure)], { type: "text/csv;charset=utf-8" }),
    json: async (figure) => new Blob([await json(figure)], { type: "application/json" }),
    svg: (figure) => new Blob([svg(figure)], { type: "image/svg+xml" }),
    png,
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest && event.target.closest("button[data-save]");
    document.querySelectorAll("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
    if (!button) return;
    const figure = button.closest("figure");
    window.unfold(figure);
    const blob = await makers[button.dataset.save](figure);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `exp10_${figure.dataset.name}_${figure.lang}.${button.dataset.save}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    button.closest("details").open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    document.querySelectorAll("details.menu[open]").forEach((menu) => { menu.open = false; menu.querySelector("summary").focus(); });
  });
})();
