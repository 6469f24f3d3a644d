// Pictures of inputs, with where they move the predicted class.
const LARGE = 360;
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
  const card = item.on && root.querySelector(`#cards > li[data-index="${Number(item.i)}"]`);
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
