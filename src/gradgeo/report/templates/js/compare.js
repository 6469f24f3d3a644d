// This report beside another one: what is flagged more, or less, than chance explains.
const ALARM = 0.01;

// Of shares k of n and l of m, two-sided (Fisher's exact test).
const fisher = (k, n, l, m) => {
  const total = k + l, choose = (a, b) => lgamma(a + 1) - lgamma(b + 1) - lgamma(a - b + 1);
  const all = choose(n + m, total), chance = (i) => Math.exp(choose(n, i) + choose(m, total - i) - all);
  const limit = chance(k) * (1 + 1e-7);
  let sum = 0;
  for (let i = Math.max(0, total - m); i <= Math.min(n, total); i += 1) {
    const here = chance(i);
    if (here <= limit) sum += here;
  }
  return Math.min(1, sum);
};
const holm = (p) => {
  const order = p.map((_, i) => i).sort((a, b) => p[a] - p[b]), corrected = [];
  let least = 0;
  order.forEach((i, rank) => { least = Math.max(least, Math.min(1, p[i] * (p.length - rank))); corrected[i] = least; });
  return corrected;
};

const isCount = (value) => Number.isInteger(value) && value >= 0 && value <= 1e12;
const isShare = ([part, whole]) => isCount(part) && isCount(whole) && part <= whole;
// What another page says of itself. Throws an Error that says why it is refused; nothing in it is executed.
const aboutOf = (text) => {
  const node = new DOMParser().parseFromString(text, "text/html").getElementById("data-about");
  if (!node) throw new Error("This is no report that can be compared: it is no page of gradgeo, or of an earlier version.");
  const about = JSON.parse(node.textContent);
  const whole = about.format === "gradgeo.report/1" && isShare(about.flagged)
    && about.causes.every(([name, ...share]) => typeof name === "string" && isShare(share))
    && about.kinds.every(([column, name, ...share]) => typeof column === "string" && typeof name === "string" && isShare(share));
  if (!whole) throw new Error("This report holds counts that gradgeo does not write.");
  return about;
};

const rowsOf = (about) => new Map([
  ["All inputs", about.flagged],
  ...about.causes.map(([name, ...share]) => [`Cause: ${name}`, share]),
  ...about.kinds.map(([column, name, ...share]) => [column ? `${column}: ${name}` : name, share]),
]);

const startCompare = () => {
  const mine = pageData("about"), chosen = get("compare-file");
  if (!mine || !chosen) return;
  const show = (other) => {
    const ours = rowsOf(mine), theirs = rowsOf(other);
    const names = [...new Set([...ours.keys(), ...theirs.keys()])];
    const of = (rows, name, about) => rows.get(name) ?? [0, name.startsWith("Cause: ") ? about.flagged[1] : 0];
    const found = names.map((name) => ({ name, a: of(ours, name, mine), b: of(theirs, name, other) })).filter(({ a, b }) => a[1] && b[1]);
    const p = holm(found.map(({ a, b }) => fisher(a[0], a[1], b[0], b[1])));
    const rate = ([k, n]) => { const [low, high] = exactInterval(k, n); return `${percent(k / n)} [${percent(low)}, ${percent(high)}]`; };
    const lines = found.map(({ name, a, b }, i) => {
      const gap = a[0] / a[1] - b[0] / b[1], points = `${gap < 0 ? "−" : "+"}${percent(Math.abs(gap))}`;
      const odd = p[i] < ALARM ? element("strong", { className: "off", textContent: gap > 0 ? "more than before" : "fewer than before" }) : "";
      const cell = (text) => element("td", { className: "n", textContent: text });
      return element("tr", {}, element("th", { scope: "row", className: "name" }, `${name} `, odd), cell(rate(a)), cell(rate(b)), cell(points));
    });
    get("compare-rows").replaceChildren(...lines);
    get("compare-table").hidden = false;
    const notes = [`This report, ${number(mine.flagged[1])} judged inputs, against “${String(other.name).slice(0, 200)}”, ${number(other.flagged[1])}.`];
    if (other.detector !== mine.detector) notes.push("They are of different detectors, or one does not say of which: flags do not mean the same.");
    if (other.alpha !== mine.alpha) notes.push("Their alphas differ.");
    get("compare-told").textContent = notes.join(" ");
  };
  chosen.addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    target.value = "";
    if (!file) return;
    try {
      if (file.size > 2 ** 24) throw new Error("This file is larger than 16 MiB: it is no report.");
      show(aboutOf(await file.text()));
    } catch (error) {
      get("compare-table").hidden = true;
      get("compare-told").textContent = error instanceof SyntaxError || error instanceof TypeError ? "This report is damaged." : error.message;
    }
  });
  get("compare").hidden = false;
};
