// The front page's canvas: a digit is drawn, the exported detector runs in this browser, nothing leaves it.
// The files are this page's own: detector.onnx and ONNX Runtime Web, which `make try` puts beside this one.
const SIDE = 8, INK = 256;
const here = new URL(".", import.meta.url).href;
const one = (id) => document.getElementById(`try-${id}`);
const say = (text) => { one("verdict").textContent = text; };

// As CauseModel in gradgeo/detector/weighing.py says.
const causeOf = (surprisal, { names, coefficient, intercept }) => {
  if (surprisal.some((value) => !Number.isFinite(value))) return null;
  const logits = intercept.map((offset, i) => offset + surprisal.reduce((sum, s, q) => sum + coefficient[i][q] * Math.log1p(s), 0));
  return names[logits.indexOf(Math.max(...logits))];
};

// As the digits were made: the share of ink in each of 8 x 8 fields, what was drawn moved to the middle and to their size.
const fieldsOf = (canvas) => {
  const { data, width, height } = canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, canvas.width, canvas.height);
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (data[4 * (y * width + x) + 3] < 64) continue;
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
  }
  if (right < 0) return null;
  const tall = bottom - top + 1, wide = right - left + 1, scale = 32 / Math.max(tall, wide), small = document.createElement("canvas");
  small.width = small.height = 32;
  const context = small.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, left, top, wide, tall, (32 - wide * scale) / 2, (32 - tall * scale) / 2, wide * scale, tall * scale);
  const ink = context.getImageData(0, 0, 32, 32).data, fields = new Float32Array(SIDE * SIDE);
  for (let i = 0; i < 1024; i += 1) fields[Math.floor(i / 128) * SIDE + Math.floor(i % 32 / 4)] += (ink[4 * i + 3] > 96 ? 1 : 0) / 16;
  return fields;
};

const draw = (canvas, values, colour) => {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, SIDE, SIDE);
  values.forEach((value, i) => {
    context.fillStyle = colour(value);
    context.fillRect(i % SIDE, Math.floor(i / SIDE), 1, 1);
  });
};

export const start = async () => {
  const canvas = one("canvas"), context = canvas.getContext("2d", { willReadFrequently: true });
  say("Loading the detector …");
  let ort, session, causes, began = performance.now();
  try {
    ort = await import(`${here}ort.wasm.min.mjs`);
    Object.assign(ort.env.wasm, { wasmPaths: here, numThreads: 1 });
    const about = await (await fetch(`${here}detector.json`)).json();
    causes = about.causes;
    session = await ort.InferenceSession.create(`${here}detector.onnx`, { executionProviders: ["wasm"] });
  } catch (error) {
    say(`The detector could not be loaded: ${String(error.message).slice(0, 200)}`);
    return;
  }
  say(`Loaded in ${((performance.now() - began) / 1000).toFixed(1)} s. Draw a digit, or anything else.`);
  let busy = false, again = false;
  const judge = async () => {
    if (busy) { again = true; return; }
    const fields = fieldsOf(canvas);
    if (!fields) return;
    busy = true;
    draw(one("input"), fields, (value) => `rgb(0 0 0 / ${value})`);
    began = performance.now();
    const found = await session.run({ input: new ort.Tensor("float32", fields, [1, 1, SIDE, SIDE]) });
    const ms = performance.now() - began, logits = [...found.logits.data], label = logits.indexOf(Math.max(...logits));
    const total = logits.reduce((sum, value) => sum + Math.exp(value - logits[label]), 0), p = found.p_value.data[0];
    const trusted = Boolean(found.trusted.data[0]);
    const cause = trusted ? null : causeOf([...found.surprisal.data], causes);
    one("label").textContent = String(label);
    say(`${trusted ? "Trusted" : "Not trusted"}${cause ? `, ${cause}` : ""}`);
    one("verdict").dataset.trusted = String(trusted);
    one("numbers").textContent = `p = ${p.toPrecision(2)}, probability ${(1 / total).toFixed(3)}, ${ms.toFixed(0)} ms`;
    const map = [...found.saliency.data], most = Math.max(...map.map(Math.abs)) || 1;
    draw(one("map"), map.map((value) => value / most), (value) => value < 0 ? `rgb(34 100 171 / ${-value})` : `rgb(196 74 20 / ${value})`);
    busy = false;
    if (again) { again = false; judge(); }
  };
  Object.assign(context, { lineWidth: INK / 9, lineCap: "round", lineJoin: "round" });
  let last = null;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [(event.clientX - box.left) / box.width * INK, (event.clientY - box.top) / box.height * INK]; };
  canvas.addEventListener("pointerdown", (event) => { last = at(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = at(event);
    context.beginPath(); context.moveTo(...last); context.lineTo(...next); context.stroke();
    last = next;
    judge();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; judge(); });
  one("clear").addEventListener("click", () => {
    context.clearRect(0, 0, INK, INK);
    for (const name of ["input", "map"]) one(name).getContext("2d").clearRect(0, 0, SIDE, SIDE);
    one("label").textContent = one("numbers").textContent = "";
    say("Draw a digit, or anything else.");
  });
};

if (one("canvas")) start();
