// Another alpha: p-values do not depend on it, so what is flagged is counted again, from what the file says.
const startSlider = () => {
  const data = pageData("steps");
  if (!data) return;
  const rows = [...document.querySelectorAll("tr[data-kind]")].map((node) => ({
    node,
    cells: [...node.cells],
    off: node.querySelector(".off"),
    kind: data.kinds[Number(node.dataset.kind)],
    first: [...node.cells].slice(1, 5).map((cell) => cell.textContent),
    range: node.querySelector(".range svg").innerHTML,
  }));
  const range = get("alpha"), facts = [...document.querySelectorAll("#facts dd")], told = [...document.querySelectorAll("#told p")];
  const mark = get("risk-mark"), meter = document.querySelector(".meter");
  const at = (pairs, step) => {
    let count = 0;
    for (let i = 0; i < pairs.length && pairs[i] <= step; i += 2) count += pairs[i + 1];
    return count;
  };
  const line = (share, low, high, usual, reach) => `<path class="usual" d="M${(200 * usual / reach).toFixed(1)} 0V16"/>`
    + `<path d="M${(200 * low / reach).toFixed(1)} 8H${(200 * high / reach).toFixed(1)}"/><circle cx="${(200 * share / reach).toFixed(1)}" cy="8" r="3.5"/>`;
  const showKinds = (step) => {
    const moved = step !== data.own, usual = data.flagged[step] / data.judged;
    const counted = rows.map(({ kind }) => {
      if (!kind || !moved) return null;
      const flagged = at(kind[1], step);
      return [flagged, ...exactInterval(flagged, kind[0])];
    });
    const reach = Math.max(0, ...counted.map((entry) => entry ? entry[2] : 0)) || 1;
    rows.forEach((row, i) => {
      const [, flagged, , share, interval] = row.cells, entry = counted[i];
      if (row.off) row.off.hidden = moved;
      const svg = row.node.querySelector(".range svg");
      if (!moved) {
        row.first.forEach((text, place) => { row.cells[place + 1].textContent = text; });
        svg.innerHTML = row.range;
      } else if (entry) {
        const value = entry[0] / row.kind[0];
        flagged.textContent = number(entry[0]);
        share.textContent = percent(value);
        interval.textContent = `[${percent(entry[1])}, ${percent(entry[2])}]`;
        svg.innerHTML = line(value, entry[1], entry[2], usual, reach);
      } else {
        for (const cell of [flagged, share, interval]) cell.textContent = "–";
        svg.innerHTML = "";
      }
    });
  };
  const show = () => {
    const step = Number(range.value), flagged = data.flagged[step], trusted = data.judged - flagged;
    range.setAttribute("aria-valuetext", `${data.alphas[step]} %`);
    get("alpha-shown").textContent = `${data.alphas[step]} %`;
    get("count-trusted").textContent = number(trusted);
    get("count-flagged").textContent = number(flagged);
    get("headline").textContent = unbroken(data.headline[step]);
    data.facts[step].forEach((text, i) => { if (facts[i]) facts[i].textContent = text; });
    told.forEach((node, i) => { node.textContent = unbroken(data.told[step][i]); node.hidden = !data.told[step][i]; });
    const first = (100 * trusted / data.rows).toFixed(3), second = (100 * data.judged / data.rows).toFixed(3);
    meter.querySelector(".trusted").setAttribute("d", `M0 0H${first}V4H0Z`);
    meter.querySelector(".flagged").setAttribute("d", `M${first} 0H${second}V4H${first}Z`);
    meter.setAttribute("aria-label", `${number(trusted)} trusted, ${number(flagged)} flagged, ${number(data.rows - data.judged)} not judged`);
    for (const note of document.querySelectorAll(".moved")) note.hidden = step === data.own;
    get("usual").textContent = percent(flagged / data.judged);
    if (mark) { mark.setAttribute("cx", data.marks[step][0]); mark.setAttribute("cy", data.marks[step][1]); }
    showKinds(step);
  };
  range.max = data.alphas.length - 1;
  range.value = data.own;
  range.addEventListener("input", show);
  get("slider").addEventListener("submit", (event) => event.preventDefault());
  get("as-scored").addEventListener("click", () => { range.value = data.own; show(); range.focus(); });
  get("slider").hidden = false;
  show();
};
