// Files are sent to /predict, a few at a time; each answer is a row of the table, and one of them is shown in full.
import { drawHeat, drawImage } from "./picture.js";
import { TEXTS } from "./texts.js";

const AT_ONCE = 2; // files that are sent at the same time
const RETRY_SECONDS = 1; // after 503: the server has enough to do
const $ = (id) => document.getElementById(id);
const entries = []; // of the table: file, answer (as of /predict), given (the label of a person), row (of the page)
let model = null; // as of /model
let shown = null; // the entry that is shown
let waiting = []; // entries that are not sent yet
let sending = 0;
let language = localStorage.getItem("alu_defects.language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

class ServerError extends Error {
  constructor(status, answer) {
    super(answer.error);
    this.status = status;
    this.answer = answer;
  }
}

// --- the server

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("alu_defects.token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  const answer = await response.json().catch(() => ({ error: response.statusText }));
  if (!response.ok) throw new ServerError(response.status, answer);
  return answer;
}

async function loadModel() {
  try {
    model = await ask("model");
  } catch (error) {
    if (error.status === 401) askForToken();
    else say(text("unreachable"));
    return false;
  }
  say("");
  $("login").hidden = true;
  $("drop").hidden = false;
  writeTexts();
  return true;
}

function askForToken() {
  if (sessionStorage.getItem("alu_defects.token")) say(text("wrongToken"));
  sessionStorage.removeItem("alu_defects.token");
  $("login").hidden = false;
  $("drop").hidden = true;
  $("token").focus();
}

async function predict(entry) {
  const path = encodeURIComponent(entry.file.name);
  if (entry.file.size > model.max_bytes) return failed(entry, text("tooLarge", { size: megabytes() }));
  for (;;) {
    try {
      return await ask(`predict?map=true&path=${path}`, { method: "POST", body: entry.file });
    } catch (error) {
      if (error.status === 503) {
        await new Promise((resolve) => setTimeout(resolve, RETRY_SECONDS * 1000));
        continue;
      }
      if (error.status === 401) askForToken();
      if (error.status === 415) return failed(entry, text((await isHeic(entry.file)) ? "heic" : "notImage"));
      return failed(entry, error.status ? error.message : text("unreachable"));
    }
  }
}

function failed(entry, error) {
  return { path: entry.file.name, status: "error", error };
}

async function isHeic(file) {
  const start = new TextDecoder("latin1").decode(await file.slice(4, 12).arrayBuffer());
  return /^ftyp(hei|hev|mif1|msf1)/.test(start);
}

// --- files

async function add(files) {
  if (!files.length || !(await loadModel())) return; // the network may be another one by now
  let first = true;
  for (const file of files) {
    const entry = { file, answer: null, given: null, show: first };
    first = false;
    entries.push(entry);
    waiting.push(entry);
    addRow(entry);
  }
  writeBatch();
  while (sending < AT_ONCE && waiting.length) send();
}

async function send() {
  sending += 1;
  while (waiting.length) {
    const entry = waiting.shift();
    entry.answer = await predict(entry);
    if (!entries.includes(entry)) continue; // cleared meanwhile
    writeRow(entry);
    writeBatch();
    if (entry.show) show(entry);
  }
  sending -= 1;
}

async function keepLabel(entry, label) {
  const place = `label?label=${encodeURIComponent(label)}`;
  try {
    await ask(place, { method: "POST", body: entry.file });
  } catch (error) {
    if (error.status === 401) askForToken();
    say(error.status ? error.message : text("unreachable"));
    return;
  }
  say("");
  entry.given = label;
  writeRow(entry);
  const next = entries.find((other) => other.answer?.decision === "ask" && !other.given);
  show(next ?? entry);
}

// --- what is shown

function text(key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function percent(value) {
  return new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(value);
}

function megabytes() {
  return Math.floor(model.max_bytes / 1e6);
}

/** The name of a class in the language of the page, and in the other one. */
function names(label) {
  const english = label.replaceAll("_", " ");
  const title = model.titles[model.classes.indexOf(label)] ?? english;
  if (title === label) return [english, ""];
  return language === "zh" ? [title, english] : [english, title];
}

function element(tag, content = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = content;
  made.className = className;
  return made;
}

function say(message) {
  $("message").textContent = message;
  $("message").hidden = !message;
}

function writeTexts() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const place of document.querySelectorAll("[data-text]")) place.textContent = text(place.dataset.text);
  $("language").textContent = text("other");
  if (!model) return;
  $("model").textContent = [model.about.model, model.about.run].filter(Boolean).join(" · ");
  $("model").title = `${model.file}, ${model.since}`;
  $("limits").textContent = text("limits", { size: megabytes() });
  entries.forEach(writeRow);
  writeBatch();
  if (shown) writeAnswer(shown);
}

async function show(entry) {
  shown = entry;
  for (const other of entries) other.row.classList.toggle("shown", other === entry);
  $("result").hidden = false;
  writeAnswer(entry);
  const drawn = await drawImage($("image"), entry.file);
  if (shown !== entry) return; // another one was chosen meanwhile
  const map = drawn ? entry.answer.map : null;
  $("image").hidden = !drawn;
  $("no-preview").hidden = drawn;
  $("heat-switch").hidden = !map;
  $("heat").hidden = !map || !$("show-heat").checked;
  if (map) drawHeat($("heat"), map, $("image"), model);
}

function writeAnswer({ file, answer, given }) {
  const ok = answer.status === "ok", decision = ok ? answer.decision : "error";
  $("name").textContent = file.name;
  $("decision").textContent = text(decision);
  $("decision").className = decision;
  const [name, other] = ok ? names(answer.label) : ["", ""];
  $("class").replaceChildren(name, " ", element("small", other));
  const score = ok && model.normal !== null ? 1 - answer[`p_${model.normal}`] : null;
  const hasScale = ok && score !== null && model.threshold !== null;
  $("reason").textContent = !ok ? answer.error : text(`${decision}Reason`, {
    score: percent(score), threshold: percent(model.threshold),
    confidence: percent(answer.confidence), below: percent(model.ask_below),
  });
  $("scale").hidden = !hasScale || decision === "ask";
  if (hasScale) {
    $("scale").querySelector(".fill").style.width = `${100 * score}%`;
    $("scale").querySelector(".tick").style.left = `${100 * model.threshold}%`;
  }
  const probabilities = Object.entries(answer).filter(([key]) => key.startsWith("p_")).sort((a, b) => b[1] - a[1]);
  $("bars").replaceChildren(...probabilities.map(([key, value]) => {
    const line = element("li"), track = element("span", "", "track"), fill = element("span", "", "fill");
    fill.style.width = `${100 * value}%`;
    track.append(fill);
    line.append(element("span", names(key.slice(2))[0]), track, element("span", percent(value)));
    return line;
  }));
  $("bars").previousElementSibling.hidden = !ok;
  $("ask").hidden = decision !== "ask" || !model.takes_labels;
  $("question").textContent = given ? text("kept", { label: names(given)[0] }) : text("question");
  $("labels").replaceChildren(...model.classes.map((label) => {
    const button = element("button", names(label)[0], given === label ? "button chosen" : "button plain");
    button.type = "button";
    button.addEventListener("click", () => keepLabel(shown, label));
    return button;
  }));
}

function addRow(entry) {
  entry.row = element("tr");
  $("rows").append(entry.row);
  writeRow(entry);
}

function writeRow(entry) {
  const { file, answer, given, row } = entry;
  const button = element("button", file.name);
  button.type = "button";
  button.disabled = !answer;
  button.addEventListener("click", () => {
    show(entry);
    $("result").scrollIntoView({ block: "nearest" });
  });
  const name = element("td");
  name.append(button);
  const ok = answer?.status === "ok", decision = !answer ? "waiting" : ok ? answer.decision : "error";
  const label = given ? text("labelled", { label: names(given)[0] }) : ok ? names(answer.label)[0] : answer?.error;
  row.replaceChildren(
    name, element("td", label), element("td", ok ? percent(answer.confidence) : ""), element("td", text(decision), decision),
  );
}

function writeBatch() {
  const counts = {};
  for (const { answer } of entries) {
    if (answer) counts[answer.decision ?? "error"] = (counts[answer.decision ?? "error"] ?? 0) + 1;
  }
  const done = Object.values(counts).reduce((sum, number) => sum + number, 0);
  const parts = Object.entries(counts).map(([decision, number]) => `${text(decision)} ${number}`);
  $("batch").hidden = entries.length < 2;
  $("counts").textContent = [text("images", { number: entries.length }), ...parts].join(" · ");
  $("progress").hidden = done === entries.length;
  $("progress").max = entries.length;
  $("progress").value = done;
  $("download").disabled = !done;
}

function download() {
  const columns = ["path", "label", "confidence", "decision", ...model.classes.map((name) => `p_${name}`), "status", "error"];
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = entries.filter(({ answer }) => answer).map(({ answer }) => columns.map((c) => cell(String(answer[c] ?? ""))).join(","));
  const table = new Blob(["\ufeff", [columns.join(","), ...lines, ""].join("\n")], { type: "text/csv" }); // the mark is for Excel
  const link = element("a");
  link.href = URL.createObjectURL(table);
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// --- what a person does

for (const id of ["files", "photo"]) {
  $(id).addEventListener("change", () => {
    add([...$(id).files]);
    $(id).value = ""; // the same file may be chosen again
  });
}
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (model) add([...event.dataTransfer.files]);
});
$("show-heat").addEventListener("change", () => ($("heat").hidden = !$("show-heat").checked));
$("download").addEventListener("click", download);
$("clear").addEventListener("click", () => {
  entries.length = waiting.length = 0;
  shown = null;
  $("rows").replaceChildren();
  $("result").hidden = true;
  writeBatch();
});
$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("alu_defects.language", language);
  writeTexts();
});
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("alu_defects.token", $("token").value);
  $("token").value = "";
  loadModel();
});

document.body.classList.toggle("touch", navigator.maxTouchPoints > 0); // it may have a camera
writeTexts();
loadModel();
