"use strict";
// Texts of the server and of files are only ever set as text; nothing is kept when the page closes.
const at = (id) => document.getElementById(id);
const takes = document.documentElement.dataset.takes; // "files", "texts" or "numbers": the server writes it there
let token = "";
let last = null; // the file or text that was sent last
let number = 0; // of the request; only the answer to the last one is shown

const headers = (more) => (token ? { ...more, Authorization: `Bearer ${token}` } : more);
const p = (value) => (value === null || value === undefined ? "none" : value < 0.001 ? value.toExponential(1) : value.toFixed(3));
const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const image = (data, kind, alt) => {
  const made = element("img", undefined, kind);
  made.src = `data:image/png;base64,${data}`;
  made.alt = alt;
  return made;
};
const say = (text, failed) => {
  at("state").textContent = text;
  at("state").className = failed ? "failed" : "";
};

async function send(input) {
  last = input;
  const mine = ++number;
  at("answer").hidden = true;
  at("ask").hidden = true;
  say("Judging ...");
  let response, answer;
  try {
    response = await post(input, "?pictures=true");
    if (response.status === 403) response = await post(input, ""); // outputs are withheld
    answer = await response.json();
  } catch {
    if (mine === number) say("The server cannot be reached, or did not answer.", true);
    return;
  }
  if (mine !== number) return;
  at("ask").hidden = response.status !== 401;
  if (!response.ok) return say(answer.error || `Status ${response.status}.`, true);
  say("");
  show(answer, input.name);
}

const kind = takes === "texts" ? "text/plain" : "application/octet-stream";
const post = (input, query) =>
  fetch(`v1/judge${query}`, { method: "POST", body: input, headers: headers({ "Content-Type": kind }) });

function show(answer, name) {
  const label = answer.class_name ?? (answer.label === undefined ? "" : `class ${answer.label}`);
  const trusted = answer.trusted;
  at("verdict").textContent = trusted === undefined ? label : `${label}: ${trusted ? "trusted" : "do not trust this"}`;
  at("verdict").className = trusted ? "trusted" : "doubted";
  at("facts").replaceChildren();
  fact("file", name);
  fact("probability by the model", answer.probability, p);
  fact("p-value", answer.p_value, p);
  fact("outlier score", answer.outlier_score, p);
  fact("likely cause", answer.cause ?? undefined);
  at("model").textContent = `${answer.model_name}, detector ${answer.model_version}`;
  at("answer").hidden = false;
  at("seen").hidden = !answer.detail;
  if (answer.detail) explain(answer.detail);
}

function fact(name, value, written = String) {
  if (value !== undefined) at("facts").append(element("dt", name), element("dd", written(value)));
}

function explain(detail) {
  classNames = detail.class_names;
  const choice = at("map");
  choice.replaceChildren(element("option", "no class"), ...detail.maps.map((map) => element("option", names(map.class))));
  const draw = () => {
    const map = detail.maps[choice.selectedIndex - 1];
    const shown = [image(detail.picture, "", "the prepared picture")];
    if (map) shown.push(image(map.picture, "map", `where the loss of ${names(map.class)} depends on the picture`));
    at("picture").replaceChildren(...shown);
  };
  choice.selectedIndex = detail.maps.length ? 1 : 0;
  choice.onchange = draw;
  draw();
  similarities(detail.csm, detail.csm_classes);
  const rows = Object.entries(detail.evidence).map(([name, value]) => row(element("th", name), element("td", p(value))));
  at("evidence").replaceChildren(at("evidence").caption, ...rows);
}

function similarities(csm, classes) {
  at("similarities").hidden = classes.length < 3; // of two classes it says nothing
  const head = row(element("td"), ...classes.map((c) => element("th", String(c))));
  const rows = classes.map((c, i) =>
    row(element("th", names(c)), ...classes.map((_, j) => {
      const value = csm[i * classes.length + j];
      const level = value === null ? 0 : Math.round(5 * Math.max(-1, Math.min(1, value)));
      return element("td", value === null ? "" : value.toFixed(2), level < 0 ? `n${-level}` : `p${level}`);
    })));
  at("csm").replaceChildren(at("csm").caption, head, ...rows);
}

function row(...cells) {
  const made = element("tr");
  made.append(...cells);
  return made;
}

let classNames = {};
const names = (c) => classNames[c] ?? `class ${c}`;

at({ files: "drop", texts: "write", numbers: "numbers" }[takes]).hidden = false;
const drop = at("drop");
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
at("file").addEventListener("change", (event) => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
at("write").addEventListener("submit", (event) => {
  event.preventDefault();
  send(at("text").value);
});
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  if (last !== null) send(last);
});
