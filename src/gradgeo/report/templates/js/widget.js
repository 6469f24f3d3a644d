// The queue of a page, or one explanation, in a notebook: one root for each view, and decisions that go to Python.
const CHOSEN = (document) => JSON.stringify((document.decisions ?? []).map(({ index, decision, time }) => [index, decision, time]));
const isDark = () => { // as the notebook is, or else as the reader's system says
  const { jpThemeLight } = document.body.dataset, said = document.body.dataset.vscodeThemeKind ?? document.documentElement.dataset.theme ?? "";
  return jpThemeLight ? jpThemeLight === "false" : said ? said.includes("dark") : matchMedia("(prefers-color-scheme: dark)").matches;
};

const start = (root, model, changed) => {
  const stored = { read: () => CHOSEN(model.get("document")), write: () => true };
  const pageData = () => (model.get("payload").items ? model.get("payload") : null);
  /* MODULES */
  startQueue(changed);
  startLarge();
};

export default {
  render({ model, el }) {
    const root = el.attachShadow({ mode: "open" });
    let mine;
    const changed = (document) => {
      mine = CHOSEN(document);
      model.set("document", document);
      model.save_changes();
    };
    const show = () => {
      mine = CHOSEN(model.get("document"));
      root.innerHTML = model.get("html"); // made by gradgeo, every text of it escaped
      start(root, model, changed);
    };
    const other = () => { if (CHOSEN(model.get("document")) !== mine) show(); }; // decided in another view of it
    el.dataset.theme = isDark() ? "dark" : "light";
    el.dataset.lmSuppressShortcuts = "true"; // keys decide here, and do nothing to the notebook
    el.addEventListener("keydown", (event) => event.stopPropagation());
    show();
    model.on("change:document", other);
    return () => model.off("change:document", other);
  },
};
