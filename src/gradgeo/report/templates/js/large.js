// Pictures of inputs: large, with where they move the predicted class, and beside trusted ones that look alike.
const LARGE = 360, FIELDS = 8;
const element = (tag, options = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children);
  return node;
};
const loaded = async (base64) => {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  return image;
};

// What there is to see of a card or an item of the queue: both say it in their own words.
const viewOfCard = (node) => ({
  title: node.querySelector("h3").textContent.trim(),
  index: Number(node.dataset.index),
  pic: node.querySelector("img")?.src.split(",")[1],
  sig: node.querySelector(".signal path")?.getAttribute("d"),
  sal: node.dataset.saliency,
  csm: node.querySelector(".csm")?.outerHTML,
});
const csmOf = (levels) => {
  const size = Math.sqrt(levels.length);
  const cells = [...levels].map((letter, i) => `<rect class="c${letter.charCodeAt(0) - 97}" x="${i % size}" y="${Math.floor(i / size)}" width="1" height="1"/>`);
  return `<svg class="csm" viewBox="0 0 ${size} ${size}" role="img" aria-label="Cosine similarity matrix of ${size} classes">${cells.join("")}</svg>`;
};
const viewOfItem = (item) => {
  const card = item.on && document.querySelector(`#cards > li[data-index="${Number(item.i)}"]`);
  if (card) return viewOfCard(card);
  const letters = /^[a-k]+$/.test(item.csm ?? "") && Number.isInteger(Math.sqrt(item.csm.length));
  return { title: item.l, index: item.i, pic: item.pic, sig: item.sig, sal: item.sal, csm: letters ? csmOf(item.csm) : undefined };
};

const paint = async (canvas, view, overlaid, side = LARGE) => {
  canvas.wanted = view; // a later call for the same canvas wins
  const picture = await loaded(view.pic);
  const scale = side / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width, picture.height].map((length) => Math.max(1, Math.round(length * scale)));
  const heat = document.createElement("canvas");
  if (overlaid && view.sal) {
    const map = await loaded(view.sal);
    heat.width = map.width;
    heat.height = map.height;
    const context = heat.getContext("2d", { willReadFrequently: true });
    context.drawImage(map, 0, 0);
    const pixels = context.getImageData(0, 0, map.width, map.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const strength = pixels.data[i];
      pixels.data.set([240, 80, 20, Math.round(strength * 0.8)], i);
    }
    context.putImageData(pixels, 0, 0);
  }
  if (canvas.wanted !== view) return;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, width, height);
  if (overlaid && view.sal) {
    context.imageSmoothingEnabled = true;
    context.drawImage(heat, 0, 0, width, height);
  }
};

// A picture as the colours of 8 x 8 fields, in which likeness is measured.
const fieldsOf = async (base64) => {
  const picture = await loaded(base64);
  const canvas = element("canvas", { width: FIELDS, height: FIELDS });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, FIELDS, FIELDS);
  const { data } = context.getImageData(0, 0, FIELDS, FIELDS);
  return Float32Array.from({ length: FIELDS * FIELDS * 3 }, (_, i) => data[Math.floor(i / 3) * 4 + i % 3] / 255);
};
const apart = (a, b) => a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0);

let trustedFields; // of the trusted pictures that the page has, found when first wanted
const nearestTrusted = async (view, count = 3) => {
  trustedFields ??= Promise.all((pageData("queue")?.items ?? []).filter((item) => item.t && item.pic)
    .map(async (item) => ({ item, fields: await fieldsOf(item.pic) })));
  const [all, mine] = await Promise.all([trustedFields, fieldsOf(view.pic)]);
  return all.filter(({ item }) => item.i !== view.index)
    .map(({ item, fields }) => ({ item, gap: apart(fields, mine) })).sort((a, b) => a.gap - b.gap).slice(0, count);
};

const startLarge = () => {
  const dialog = get("large");
  if (!dialog) return;
  const canvas = get("large-picture"), box = get("large-overlay");
  let view;
  const show = () => paint(canvas, view, box.checked).catch(() => {});
  box.addEventListener("input", show);
  get("large-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  for (const image of document.querySelectorAll("#cards img")) {
    const button = element("button", { type: "button", className: "zoom", title: "Show large" });
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", async () => {
      view = viewOfCard(button.closest("li"));
      get("large-title").textContent = view.title;
      canvas.setAttribute("aria-label", `${view.title}, input ${view.index}`);
      box.parentElement.hidden = !view.sal;
      get("large-near").hidden = true;
      dialog.showModal();
      show();
      const mine = view, near = await nearestTrusted(view).catch(() => []);
      if (mine !== view) return;
      get("large-near").hidden = !near.length;
      get("large-trusted").replaceChildren(...near.map(({ item }) => element("li", {},
        element("img", { src: `data:image/png;base64,${item.pic}`, alt: `Trusted input ${item.i}` }), `${item.l} #${item.i}`)));
    });
  }
};
