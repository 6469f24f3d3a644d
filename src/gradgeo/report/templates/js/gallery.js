// The flagged inputs that are shown: searched, filtered, sorted, taken away as CSV.
const PAGE = 24;

const startGallery = () => {
  const list = get("cards");
  if (!list) return;
  const cards = [...list.children].map((node) => ({
    node,
    text: node.textContent.toLowerCase(),
    label: node.dataset.label,
    cause: node.dataset.cause,
    name: node.querySelector("h3").firstChild.textContent.trim(),
    p: Number(node.dataset.p),
    score: Number(node.dataset.score),
    index: Number(node.dataset.index),
    drift: Number(node.dataset.drift ?? 0),
    time: node.dataset.time ?? "",
  }));
  const odd = (a, b) => (b.score - a.score) || (a.index - b.index);
  const orders = {
    score: odd,
    p: (a, b) => (a.p - b.p) || odd(a, b),
    index: (a, b) => a.index - b.index,
    label: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || odd(a, b),
    drift: (a, b) => (b.drift - a.drift) || odd(a, b),
  };
  let limit = PAGE, found = cards;
  const show = () => {
    const words = get("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const label = get("label").value, cause = get("cause").value;
    const fits = (card) => words.every((word) => card.text.includes(word))
      && (!label || card.label === label) && (!cause || card.cause === cause);
    found = cards.filter(fits).sort(orders[get("sort").value]);
    const seen = new Set(found.slice(0, limit));
    const fitting = new Set(found);
    for (const card of cards) {
      card.node.hidden = !seen.has(card);
      card.node.dataset.out = fitting.has(card) ? "" : "1"; // of no page: it does not fit
    }
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
  get("csv").addEventListener("click", () => {
    const rows = found.map(({ node, name }) => [node.dataset.index, node.dataset.name, node.dataset.time ?? "", name, node.dataset.p, node.dataset.score, node.dataset.cause]);
    const lines = [["index", "name", "time", "label", "p_value", "outlier_score", "cause"], ...rows];
    download("flagged.csv", "text/csv", lines.map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n");
  });
  show();
};
