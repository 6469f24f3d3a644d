// Flagged inputs laid out by likeness, so that a cluster of one fault is seen at once: the two directions in which
// their pictures and evidence differ most (principal components), moved apart where they would cover each other.
const SIDE = 40;
const lineOf = (path) => {
  const points = [...path.matchAll(/[ML]([\d.]+) ([\d.]+)/g)].map(([, x, y]) => [Number(x), Number(y) / 100]);
  return Float32Array.from({ length: 48 }, (_, i) => {
    const x = i / 47 * 255, after = Math.max(1, points.findIndex(([at]) => at >= x));
    return points[Math.min(after, points.length - 1)][1];
  });
};
const described = async (node) => {
  const view = viewOfCard(node);
  const looks = view.pic ? await fieldsOf(view.pic) : view.sig ? lineOf(view.sig) : new Float32Array(0);
  const evidence = [...node.querySelectorAll("tr[data-evidence]")].sort((a, b) => a.dataset.evidence < b.dataset.evidence ? -1 : 1)
    .map((row) => -Math.log10(Math.max(1e-6, Number(row.dataset.p))));
  return { node, view, looks, evidence: Float32Array.from(evidence) };
};
const normed = (tables) => { // columns centred, the whole of variance one
  const mean = tables[0].map((_, j) => tables.reduce((sum, row) => sum + row[j], 0) / tables.length);
  const moved = tables.map((row) => row.map((value, j) => value - mean[j]));
  const size = Math.sqrt(moved.reduce((sum, row) => sum + row.reduce((all, value) => all + value * value, 0), 0) / tables.length) || 1;
  return moved.map((row) => row.map((value) => value / size));
};
const components = (tables) => { // (N, 2), by power iteration on the Gram matrix
  const n = tables.length, found = [];
  const gram = tables.map((a) => Float64Array.from(tables, (b) => a.reduce((sum, value, j) => sum + value * b[j], 0)));
  for (let c = 0; c < 2; c += 1) {
    let v = Float64Array.from({ length: n }, (_, i) => Math.cos((i + 1) * (c + 1))), length = 0;
    for (let step = 0; step < 120; step += 1) {
      const next = gram.map((row) => row.reduce((sum, value, j) => sum + value * v[j], 0));
      for (const { unit } of found) {
        const along = next.reduce((sum, value, j) => sum + value * unit[j], 0);
        next.forEach((value, j) => { next[j] = value - along * unit[j]; });
      }
      length = Math.hypot(...next);
      if (!(length > 1e-12)) { v = new Float64Array(n); break; }
      v = Float64Array.from(next, (value) => value / length);
    }
    found.push({ unit: v, scale: Math.sqrt(length) });
  }
  return tables.map((_, i) => found.map(({ unit, scale }) => unit[i] * scale));
};
const spread = (points, width, height) => {
  const low = [0, 1].map((c) => Math.min(...points.map((p) => p[c]))), high = [0, 1].map((c) => Math.max(...points.map((p) => p[c])));
  const placed = points.map((p) => [0, 1].map((c) => (p[c] - low[c]) / (high[c] - low[c] || 1) * ([width, height][c] - SIDE)));
  for (let step = 0; step < 40; step += 1) {
    for (let i = 0; i < placed.length; i += 1) {
      for (let j = 0; j < i; j += 1) {
        const dx = placed[i][0] - placed[j][0] || 0.1 * (i - j), dy = placed[i][1] - placed[j][1] || 0.1 * (i + j), gap = Math.hypot(dx, dy);
        if (gap >= SIDE) continue;
        const push = (SIDE - gap) / gap / 4;
        placed[i][0] += dx * push; placed[i][1] += dy * push; placed[j][0] -= dx * push; placed[j][1] -= dy * push;
      }
    }
    for (const p of placed) { p[0] = Math.max(0, Math.min(width - SIDE, p[0])); p[1] = Math.max(0, Math.min(height - SIDE, p[1])); }
  }
  return placed;
};

const startLikeness = () => {
  const button = get("likeness"), map = get("map"), list = get("cards");
  if (!button || !map) return;
  const show = async () => {
    const cards = await Promise.all([...list.children].filter((node) => !node.dataset.out).map((node) => described(node)));
    const longest = Math.max(...cards.map(({ looks }) => looks.length));
    const alike = cards.filter(({ looks, evidence }) => looks.length === longest && evidence.length === cards[0].evidence.length);
    const parts = ["looks", "evidence"].filter((part) => alike.length && alike[0][part].length).map((part) => normed(alike.map((card) => card[part])));
    if (alike.length < 3 || !parts.length) {
      map.replaceChildren(element("p", { className: "note", textContent: "Too few inputs with pictures or evidence to lay out." }));
      return;
    }
    const points = components(alike.map((_, i) => Float32Array.from(parts.flatMap((part) => [...part[i]]))));
    const placed = spread(points, map.clientWidth, map.clientHeight);
    map.replaceChildren(...alike.map(({ node, view }, i) => {
      const spot = element("button", { type: "button", className: "spot", title: `${view.title} #${view.index}` });
      spot.dataset.index = view.index;
      spot.setAttribute("aria-label", `${view.title}, input ${view.index}${node.dataset.cause ? `, ${node.dataset.cause}` : ""}`);
      spot.style.left = `${placed[i][0]}px`;
      spot.style.top = `${placed[i][1]}px`;
      spot.append(view.pic ? element("img", { src: `data:image/png;base64,${view.pic}`, alt: "" }) : element("span", { textContent: view.title.slice(0, 3) }));
      spot.addEventListener("click", () => {
        const zoom = node.querySelector(".zoom");
        if (zoom) zoom.click(); else { node.hidden = false; node.scrollIntoView({ block: "center" }); }
      });
      return spot;
    }));
  };
  button.addEventListener("click", () => {
    map.hidden = !map.hidden;
    button.setAttribute("aria-expanded", String(!map.hidden));
    if (!map.hidden) show();
  });
  get("filters").addEventListener("input", () => { if (!map.hidden) show(); });
  button.hidden = false;
};
