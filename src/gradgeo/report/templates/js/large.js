// Pictures large, beside trusted ones that look alike.
const FIELDS = 8;

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
  for (const image of root.querySelectorAll("#cards img")) {
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
