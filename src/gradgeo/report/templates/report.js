"use strict";
(() => {
  const root = document.documentElement;
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const kept = (theme) => {
    try { // a page opened from a file may have no storage
      if (theme) localStorage.setItem("gradgeo-theme", theme);
      return localStorage.getItem("gradgeo-theme");
    } catch { return null; }
  };
  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();

  const theme = () => {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
    button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; kept(root.dataset.theme); show(); });
    button.hidden = false;
    show();
  };

  const PAGE = 24;
  const gallery = () => {
    const list = document.getElementById("cards");
    if (!list) return;
    const get = (id) => document.getElementById(id);
    const cards = [...list.children].map((node) => ({
      node,
      text: node.textContent.toLowerCase(),
      label: node.dataset.label,
      cause: node.dataset.cause,
      name: node.querySelector("h3").firstChild.textContent.trim(),
      p: Number(node.dataset.p),
      score: Number(node.dataset.score),
      index: Number(node.dataset.index),
    }));
    const odd = (a, b) => (b.score - a.score) || (a.index - b.index);
    const orders = {
      score: odd,
      p: (a, b) => (a.p - b.p) || odd(a, b),
      index: (a, b) => a.index - b.index,
      label: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || odd(a, b),
    };
    let limit = PAGE;
    const show = () => {
      const words = get("text").value.toLowerCase().split(/\s+/).filter(Boolean);
      const label = get("label").value, cause = get("cause").value;
      const fits = (card) => words.every((word) => card.text.includes(word))
        && (!label || card.label === label) && (!cause || card.cause === cause);
      const found = cards.filter(fits).sort(orders[get("sort").value]);
      const seen = new Set(found.slice(0, limit));
      for (const card of cards) card.node.hidden = !seen.has(card);
      list.append(...found.map((card) => card.node));
      get("shown").textContent = found.length
        ? `${found.length} of ${cards.length}` + (found.length > limit ? `, the first ${limit} are shown` : "")
        : "No flagged input fits.";
      get("more").hidden = found.length <= limit;
    };
    const again = () => { limit = PAGE; show(); };
    for (const id of ["text", "label", "cause", "sort"]) get(id).addEventListener("input", again);
    get("filters").addEventListener("submit", (event) => event.preventDefault());
    get("filters").hidden = false;
    get("more").addEventListener("click", () => {
      const first = [...list.children].filter((node) => !node.hidden).length;
      limit += PAGE;
      show();
      const next = list.children[first]; // the keyboard goes on where the new ones begin
      if (next) { next.tabIndex = -1; next.focus({ preventScroll: true }); }
    });
    show();
  };

  document.addEventListener("DOMContentLoaded", () => { theme(); gallery(); });
})();
