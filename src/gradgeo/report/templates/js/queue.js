// The review queue: one input after another, decided by a key.
const startQueue = (changed) => {
  const data = pageData("queue"), section = get("review");
  if (!data || !section) return;
  const decisions = new Decisions(data, changed), list = get("review-list"), canvas = get("review-picture"), overlay = get("review-overlay");
  const words = { agree: "agree", wrong_class: "wrong class", none_of_the_classes: "no class fits", artefact: "artefact" };
  const nodes = new Map(), tell = (text) => { get("review-told").textContent = text; };
  let items = data.items, at = 0;

  const mark = (index) => {
    const made = decisions.made.get(index), node = nodes.get(index);
    node.dataset.decision = made?.decision ?? "";
    node.lastChild.textContent = made ? words[made.decision] : "";
  };
  const progress = () => {
    const drawn = decisions.drawn().size, made = decisions.made.size;
    const gap = made - drawn ? ` ${number(made - drawn)} behind one that is still open: for rates they count once that is decided.` : "";
    get("review-progress").textContent = `${number(made)} of ${number(data.items.length)} decided.${gap}`;
    get("review-done").value = made / data.items.length;
    get("review-undo").disabled = !made;
    get("review-storage").hidden = decisions.kept;
  };
  const show = () => {
    const item = items[at], view = viewOfItem(item), made = decisions.made.get(item.i);
    for (const node of list.querySelectorAll("[aria-current]")) node.removeAttribute("aria-current");
    const node = nodes.get(item.i);
    node.setAttribute("aria-current", "true");
    const top = node.offsetTop - list.offsetTop; // within the list: the page itself does not move
    if (top < list.scrollTop || top + node.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top - list.clientHeight / 2;
    get("review-class").textContent = item.l;
    get("review-kind").textContent = item.t ? "trusted" : "flagged";
    get("review-kind").className = item.t ? "kind trusted" : "kind flagged";
    get("review-numbers").textContent = `p = ${item.p.toPrecision(2)}, probability ${item.q === null ? "–" : item.q.toFixed(2)}${item.w ? `, ${item.w}` : ""}`;
    get("review-name").textContent = `${item.n === String(item.i) ? "" : `${item.n} `}#${item.i}`;
    get("review-cause").textContent = item.c ?? "";
    get("review-cause").hidden = !item.c;
    get("review-evidence").replaceChildren(...(item.e ?? []).map(([name, p]) => element("li", {}, `${name}: p = ${p}`)));
    for (const button of section.querySelectorAll("[data-choice]")) button.setAttribute("aria-pressed", String(CHOICES[button.dataset.choice] === made?.decision));
    get("review-csm").innerHTML = view.csm ?? ""; // made by this page, of letters a to k
    canvas.hidden = !view.pic;
    overlay.parentElement.hidden = !view.sal;
    get("review-signal").innerHTML = /^[ML\d .-]+$/.test(view.sig ?? "")
      ? `<svg class="signal" viewBox="0 -4 255 108" preserveAspectRatio="none" role="img" aria-label="The input as a line"><path d="${view.sig}"/></svg>` : "";
    get("review-blank").hidden = Boolean(view.pic || view.sig);
    canvas.setAttribute("aria-label", `Input ${item.i}, predicted ${item.l}`);
    if (view.pic) paint(canvas, view, overlay.checked, 288).catch(() => { get("review-blank").hidden = false; });
  };
  const go = (place) => { at = Math.max(0, Math.min(items.length - 1, place)); show(); };
  const next = () => {
    const after = items.findIndex((item, i) => i > at && !decisions.made.has(item.i));
    const open = after >= 0 ? after : items.findIndex((item) => !decisions.made.has(item.i));
    go(open >= 0 ? open : at);
    if (open < 0) tell("All are decided. Export them below.");
  };
  const decide = (choice) => {
    const { i } = items[at];
    decisions.decide(i, CHOICES[choice]);
    mark(i);
    progress();
    tell(`#${i}: ${words[CHOICES[choice]]}`);
    next();
  };
  const undo = () => {
    if (!decisions.made.size) return;
    const index = decisions.undo();
    mark(index);
    progress();
    go(items.findIndex((item) => item.i === index));
    tell(`#${index} is open again.`);
  };
  const order = () => {
    const current = items[at].i;
    items = get("review-order").value === "p" ? [...data.items].sort((a, b) => a.p - b.p || a.i - b.i) : data.items;
    list.replaceChildren(...items.map((item) => nodes.get(item.i)));
    go(items.findIndex((item) => item.i === current));
  };

  for (const item of data.items) {
    const node = element("li", {}, element("span", { textContent: `${item.l} #${item.i}` }), element("span", { className: "made" }));
    node.dataset.index = item.i;
    nodes.set(item.i, node);
    if (decisions.made.has(item.i)) mark(item.i);
  }
  list.append(...nodes.values());
  list.addEventListener("click", (event) => {
    const node = event.target.closest("li");
    if (node) go(items.findIndex((item) => item.i === Number(node.dataset.index)));
  });
  section.addEventListener("click", (event) => { const button = event.target.closest("[data-choice]"); if (button) decide(button.dataset.choice); });
  section.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input:not([type=checkbox]), a, summary")) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (CHOICES[event.key]) decide(event.key);
    else if (event.key === "u") undo();
    else if (step) go(at + step);
    else return;
    event.preventDefault();
  });
  get("review-undo").addEventListener("click", undo);
  get("review-order").addEventListener("input", order);
  overlay.addEventListener("input", show);
  let exported = 0;
  get("review-export").addEventListener("click", () => {
    download("decisions.json", "application/json", `${JSON.stringify(decisions.document(), null, 1)}\n`);
    exported = decisions.made.size;
  });
  get("review-import").addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    target.value = "";
    if (!file) return;
    try {
      if (file.size > LARGEST_FILE) throw new Error(`${file.name} is larger than 16 MiB: it is no file of decisions.`);
      tell(decisions.read(await file.text()));
    } catch (error) { tell(error.message); }
    for (const index of nodes.keys()) mark(index);
    progress();
    show();
  });
  addEventListener("beforeunload", (event) => { if (!decisions.kept && decisions.made.size > exported) event.preventDefault(); });
  section.hidden = false;
  const link = root.querySelector('a[href="#review"]');
  if (link) link.parentElement.hidden = false;
  progress();
  at = -1;
  next();
  if (at < 0) go(0);
  tell(decisions.made.size ? `${number(decisions.made.size)} decisions were kept in this browser.` : "");
};
