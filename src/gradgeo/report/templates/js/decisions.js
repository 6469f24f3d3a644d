// What a person decided: kept in the browser, taken away and brought back as JSON with the record of the draw.
const CHOICES = { 1: "agree", 2: "wrong_class", 3: "none_of_the_classes", 4: "artefact" };
const LARGEST_FILE = 16 * 2 ** 20;

class Decisions {
  constructor(data, changed) { // changed: called with the document after each change
    this.data = data;
    this.changed = changed;
    this.key = `gradgeo-review ${data.report}`;
    this.byIndex = new Map(data.items.map((item) => [item.i, item]));
    this.made = new Map(); // by index, in the order they were made
    this.kept = true; // in the browser
    try {
      for (const [index, decision, time] of JSON.parse(stored.read(this.key) ?? "[]")) {
        if (this.byIndex.has(index) && Object.values(CHOICES).includes(decision) && this.isTime(time)) this.made.set(index, { decision, time });
      }
    } catch { /* something else under this name */ }
  }

  isTime(text) { return typeof text === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(text); }

  keep() {
    const rows = [...this.made].map(([index, { decision, time }]) => [index, decision, time]);
    this.kept = stored.write(this.key, JSON.stringify(rows));
    this.changed?.(this.document());
  }

  decide(index, decision, time = `${new Date().toISOString().slice(0, 19)}Z`) {
    this.made.delete(index);
    this.made.set(index, { decision, time });
    this.keep();
  }

  undo() { // the last one; returns its index
    const last = [...this.made.keys()].at(-1);
    this.made.delete(last);
    this.keep();
    return last;
  }

  // Of each kind the decided ones before the first undecided: only they are a random sample, in whatever order one decides.
  drawn() {
    const open = { true: true, false: true }, inside = new Set();
    for (const item of this.data.items) {
      const kind = Boolean(item.t);
      open[kind] &&= this.made.has(item.i);
      if (open[kind]) inside.add(item.i);
    }
    return inside;
  }

  document() {
    const drawn = this.drawn();
    const { format, report, detector, sampling } = this.data;
    const decisions = [...this.made].map(([index, { decision, time }]) => {
      const item = this.byIndex.get(index);
      return { index, name: item.n, p: item.p, trusted: Boolean(item.t), decision, time, drawn: drawn.has(index) };
    });
    return { format, report, detector, sampling, decisions };
  }

  // From the text of a file: what to tell the reader. Throws an Error that says why it is refused.
  read(text) {
    let found;
    try { found = JSON.parse(text); } catch { throw new Error("This is no file of decisions: it is not JSON."); }
    const short = (value) => String(value).slice(0, 120);
    if (found?.format !== this.data.format || !Array.isArray(found.decisions)) {
      throw new Error(`This is no file of decisions: its format is ${short(found?.format)}, not ${this.data.format}.`);
    }
    if (found.report !== this.data.report) {
      throw new Error(`These decisions are of the report “${short(found.report)}”. This one is “${this.data.report}”.`);
    }
    if (found.detector !== this.data.detector) {
      throw new Error(`These decisions are of the detector ${short(found.detector).slice(0, 16)}. This report is of ${this.data.detector.slice(0, 16)}.`);
    }
    let taken = 0;
    for (const one of found.decisions) {
      const legal = Object.values(CHOICES).includes(one?.decision) && this.isTime(one.time) && this.byIndex.has(one.index);
      if (!legal || this.made.get(one.index)?.time >= one.time) continue; // the newer one counts
      this.made.set(one.index, { decision: one.decision, time: one.time });
      taken += 1;
    }
    this.keep();
    return `${taken} of ${found.decisions.length} decisions read.`;
  }
}
