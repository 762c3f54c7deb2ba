// The gallery of a run: filters over data/index.js, cards from data/page-N.js, loaded when they are needed. No network, no innerHTML:
// whatever the data hold is set as text. The state is kept in the address: #path=SP3&verdict=kept&text=dog&page=2&id=...
"use strict";

const state = { view: "samples", path: "", verdict: "", text: "", id: "", page: 1 };
const pages = new Map();
const waiting = new Map();
let rows = [], pathSets = [], fates = [], pageRows = 50, threshold = null, drawn = 0;
const $ = (id) => document.getElementById(id);

// ---- data -------------------------------------------------------------------------------------------------------------------
function ctrlsynthIndex(index, more) {
  rows = index;
  ({ pathSets, fates, pageRows, threshold } = more);
  readAddress();
  show();
}

function ctrlsynthPage(number, cards) {
  pages.set(number, cards);
}

function loadPage(number) {
  if (pages.has(number)) return Promise.resolve();
  if (!waiting.has(number)) {
    waiting.set(number, new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = `data/page-${String(number).padStart(5, "0")}.js`;
      script.onload = () => done();
      script.onerror = () => failed(new Error(`${script.src} is missing`));
      document.head.append(script);
    }));
  }
  return waiting.get(number);
}

// ---- state ------------------------------------------------------------------------------------------------------------------
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of ["view", "path", "verdict", "text", "id"]) state[name] = given.get(name) || "";
  state.view = ["samples", "numbers", "recipe"].includes(state.view) ? state.view : "samples";
  state.page = Math.max(1, parseInt(given.get("page") || "1", 10) || 1);
  for (const name of ["path", "verdict", "text"]) $(name).value = state[name];
}

function writeAddress() {
  const out = new URLSearchParams();
  if (state.view !== "samples") out.set("view", state.view);
  for (const name of ["path", "verdict", "text", "id"]) if (state[name]) out.set(name, state[name]);
  if (state.page > 1) out.set("page", state.page);
  const hash = `#${out}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
}

function change(more) {
  Object.assign(state, { page: 1, id: "" }, more);
  writeAddress();
  show();
}

function matches() {
  const paths = pathSets.map((set) => !state.path || set.includes(state.path));
  const wanted = fates.map(([verdict, reason, where]) => !state.verdict || [verdict, reason, `${reason || verdict}@${where}`].includes(state.verdict));
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const id = state.id.toLowerCase();
  const found = [];
  rows.forEach(([path, fate, text], number) => {
    if (!paths[path] || !wanted[fate]) return;
    if (id && text.slice(0, text.indexOf("\n")) !== id) return;
    if (words.every((word) => text.includes(word))) found.push(number);
  });
  return found;
}

async function show() {
  const ticket = ++drawn;
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== state.view;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  const found = matches();
  const last = Math.max(1, Math.ceil(found.length / pageRows));
  state.page = Math.min(state.page, last);
  const shown = found.slice((state.page - 1) * pageRows, state.page * pageRows);
  try {
    await Promise.all([...new Set(shown.map((n) => Math.floor(n / pageRows)))].map(loadPage));
  } catch (error) {
    $("count").textContent = String(error.message);
    return;
  }
  if (ticket !== drawn) return; // a later filter has overtaken this one
  $("cards").replaceChildren(...shown.map((n) => card(pages.get(Math.floor(n / pageRows))[n % pageRows])));
  const all = rows.length.toLocaleString("en");
  $("count").textContent = found.length === rows.length ? `${all} samples` : `${found.length.toLocaleString("en")} of ${all} samples`;
  $("count").dataset.found = found.length;
  pager(last);
  document.body.dataset.ready = "yes";
}

// ---- drawing ----------------------------------------------------------------------------------------------------------------
function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : String(c))));
  return element;
}

const chip = (kind, text, title, note) => h("li", { class: `chip ${kind}`, title, dir: "auto" }, text, note ? h("small", null, ` ${note}`) : null);
const KINDS = ["objects", "attributes", "relations"];
const REFERENCES = { edited: "tags as edited", text: "the text's phrases", original: "the original's tags as edited", original_unedited: "the original's tags" };

function card(c) {
  const last = (kind) => [...c.steps].reverse().find((s) => s.kind === kind);
  const written = last("write"), painted = last("paint");
  const mark = { kept: "✓ ", rejected: "✗ ", failed: "! ", dropped: "− " }[c.verdict] || "";
  return h("article", { class: "card", "data-id": c.id, "data-verdict": c.verdict },
    h("header", null,
      h("span", { class: `badge fate ${c.verdict}`, title: c.where ? `decided by ${c.where}` : null }, mark, c.verdict, c.reason ? `: ${c.reason}` : ""),
      c.paths.map((p) => h("span", { class: "path" }, p)),
      h("a", { class: "id", href: `#${new URLSearchParams({ id: c.id })}`, title: "this sample alone; ctrlsynth explain takes this id" }, c.id)),
    h("div", { class: "pair" }, original(c), synthetic(c, written, painted)),
    evidence(c.steps),
    story(c));
}

function frame(path, alt, note) {
  if (!path) return h("div", { class: "frame none" }, h("span", null, note));
  return h("a", { class: "frame", href: path, target: "_blank", rel: "noopener" }, h("img", { src: path, alt, loading: "lazy", decoding: "async" }));
}

function original(c) {
  return h("div", null, h("h3", null, "Original"), frame(c.original, "original image", c.note),
    h("p", { class: "words", dir: "auto" }, c.caption === null ? "no caption" : c.caption));
}

function synthetic(c, written, painted) {
  const words = written && written.text !== null ? h("p", { class: "words", dir: "auto" }, written.text) : null;
  if (words && !painted && c.verdict !== "unfinished") { // a new text for the original image
    return h("div", null, h("h3", null, "Synthetic"), h("div", { class: "frame quote" }, words), h("p", { class: "words same" }, c.size ? "keeps the original image" : "text only"));
  }
  const failed = c.steps.find((s) => s.status !== "ok");
  const note = painted ? `not painted: ${painted.reason}` : failed ? `${failed.status}: ${failed.reason}` : c.reason || "nothing was made";
  return h("div", null, h("h3", null, "Synthetic"), frame(painted && painted.image, "painted image", note),
    words || h("p", { class: "words same" }, written ? `no text: ${written.reason}` : painted ? "keeps the original caption" : ""));
}

function evidence(steps) {
  const out = [];
  let tags = null;
  for (const step of steps) {
    if (step.kind === "tag") tags = step;
    if (step.kind === "write") {
      if (tags || (step.tags && KINDS.some((k) => step.tags[k].length))) out.push(tagRow(tags, step));
      if (step.judge) out.push(scoreRow("In the text", step.judge.references.edited, null));
    }
    if (step.kind === "paint" && step.judge) {
      const decides = step.judge.decides;
      out.push(scoreRow(`In the image, against ${REFERENCES[decides]}`, step.judge.references[decides], step.seen));
    } else if (step.kind === "paint" && step.seen) out.push(scoreRow("In the image", null, step.seen));
  }
  if (tags && !steps.some((s) => s.kind === "write")) out.unshift(tagRow(tags, null));
  return out.length ? h("div", { class: "rows" }, out) : null;
}

// Tags as they were and as edits left them: what an edit touched carries its old and new form.
function tagRow(tags, written) {
  const chips = [];
  for (const kind of KINDS) {
    const edits = written ? written.edits.filter((e) => e.kind === kind) : [];
    const given = written && written.tags ? written.tags[kind] : null;
    (tags ? tags[kind] : []).forEach((phrase, n) => {
      const score = kind === "objects" && tags.scores.length > n ? tags.scores[n].toFixed(2) : null;
      const touched = edits.filter((e) => e.before === phrase);
      if (!touched.length) chips.push(given && !given.includes(phrase) ? chip(`cut ${kind}`, phrase, `not given to the writer (${kind})`) : chip(kind, phrase, kind, score));
      for (const e of touched) chips.push(e.after === null ? chip(`cut ${kind}`, phrase, `${e.name} (${kind})`, score) : chip(`new ${kind}`, `${phrase} → ${e.after}`, `${e.name} (${kind})`));
    });
    const known = new Set(tags ? tags[kind] : []);
    for (const e of edits.filter((x) => x.before === null || !known.has(x.before))) {
      chips.push(e.after === null ? chip(`cut ${kind}`, e.before, `${e.name} (${kind})`) : chip(`new ${kind}`, e.before === null ? `+ ${e.after}` : `${e.before} → ${e.after}`, `${e.name} (${kind})`));
    }
    if (!tags && given) for (const phrase of given) chips.push(chip(kind, phrase, kind));
  }
  return h("div", null, h("h3", null, "Tags", tags && tags.model ? h("span", null, `by ${tags.model}`) : null),
    chips.length ? h("ul", { class: "chips" }, chips) : h("p", { class: "note" }, "none"));
}

function scoreRow(title, score, seen) {
  const low = score && score.recall !== null && threshold !== null && score.recall < threshold - 1e-6;
  const chips = score ? [
    ...score.found.map((p) => chip("found", p, "found")), ...score.missed.map((p) => chip("missed", p, "missed")),
    ...score.back.map((p) => chip("back", p, "removed by an edit, but came back"))] : [];
  if (seen) {
    const matched = new Set(score ? [...score.found, ...score.back] : []);
    for (const p of (seen.objects || []).filter((o) => !matched.has(o))) chips.push(chip("extra", p, `seen by ${seen.model}`));
  }
  const number = !score || score.recall === null ? h("span", null, "no reference") : [meter(score.recall, low), h("b", null, score.recall.toFixed(2))];
  return h("div", null, h("h3", null, title, number), chips.length ? h("ul", { class: "chips" }, chips) : null);
}

function meter(recall, low) {
  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const bar = svg("svg", { class: "meter", viewBox: "0 0 110 10", role: "img", "aria-label": `recall ${recall.toFixed(2)}` });
  bar.append(svg("rect", { class: "track", x: 0, y: 1, width: 110, height: 8, rx: 4 }),
    svg("rect", { class: low ? "fill low" : "fill", x: 0, y: 1, width: Math.max(110 * recall, recall ? 3 : 0), height: 8, rx: 4 }));
  if (threshold !== null) bar.append(svg("line", { class: "mark", x1: 110 * threshold, x2: 110 * threshold, y1: 0, y2: 10 }));
  return bar;
}

function story(c) {
  const details = h("details", { class: "story" }, h("summary", null, "Instruction, prompt, scores"));
  const fill = () => {
    if (details.childElementCount > 1) return;
    details.append(facts([["source", c.key], ["file", c.file], ["size", c.size && `${c.size[0]} × ${c.size[1]}`], ["licence", c.licence]]));
    for (const step of c.steps) details.append(h("h4", null, `${step.folder}${step.model ? ` by ${step.model}` : ""}`), facts(described(step)));
  };
  details.addEventListener("toggle", fill);
  if (state.id) { details.open = true; fill(); }
  return details;
}

function described(s) {
  const clip = s.clip === null || s.clip === undefined ? null : `${s.clip} of 77${s.cut ? ", cut at 77" : ""}`;
  const fate = s.status === "ok" ? null : `${s.status}: ${s.reason}`;
  if (s.kind === "tag") return [["fate", fate], ["caption", s.caption], ...KINDS.map((k) => [k, s[k].join(", ") || "none"])];
  if (s.kind === "write") {
    const edits = s.edits.map((e) => `${e.name}: ${e.kind}: ${e.before === null ? "" : e.before} → ${e.after === null ? "removed" : e.after}`);
    const tokens = s.tokens.some((t) => t !== null) ? `${s.tokens[0] || 0} in, ${s.tokens[1] || 0} out` : null;
    const others = s.others.map((o) => `${o.number} (${o.reason}): ${o.text === null ? "" : o.text}`);
    return [["fate", fate], ["edits", edits.join("\n")], ["template", s.template], ["instruction", s.instruction], ["raw reply", s.raw], ["fields", s.fields],
      ["LLM tokens", tokens], ["CLIP tokens", clip], ["other candidates", others.join("\n")], ["verdict", s.judge && s.judge.verdict]];
  }
  if (s.kind === "balance") return [["fate", fate], ["concepts", s.concepts.join(", ") || "none"], ["chance", s.chance === null ? null : s.chance.toFixed(3)]];
  const weights = s.weights.map(([tag, factor]) => `${tag} × ${factor}`).join(", ");
  const references = s.judge ? Object.entries(s.judge.references).map(([name, score]) => [`recall, ${name}`, reference(score)]) : [];
  return [["fate", fate], ["prompt", s.prompt], ["negative", s.negative], ["style", s.style], ["weights", weights], ["weights unused", s.unused.join(", ")],
    ["drawn", s.drawn && s.drawn.join(", ")], ["not drawn", s.not_drawn.join(", ")], ["size", s.size && `${s.size[0]} × ${s.size[1]}`], ["CLIP tokens", clip], ["seed", s.seed],
    ["seen by", s.seen && s.seen.model], ["seen", s.seen && KINDS.flatMap((k) => s.seen[k]).join(", ")], ...references,
    ["unsafe", s.judge && s.judge.unsafe !== null ? s.judge.unsafe.toFixed(2) : null], ["verdict", s.judge && s.judge.verdict]];
}

function reference(score) {
  if (!score || score.recall === null) return "none: nothing to compare with";
  const missed = score.missed.length ? `; missed ${score.missed.join(", ")}` : "";
  return `${score.recall.toFixed(2)}: found ${score.found.join(", ") || "nothing"}${missed}`;
}

const facts = (pairs) => h("dl", null, pairs.filter(([, v]) => v !== null && v !== undefined && v !== "").map(([k, v]) => [h("dt", null, k), h("dd", { dir: "auto" }, v)]));

function pager(last) {
  const go = (page, label) => {
    const button = h("button", { type: "button", disabled: page < 1 || page > last }, label);
    button.addEventListener("click", () => { change({ page, id: state.id }); window.scrollTo(0, 0); });
    return button;
  };
  if (last === 1) return $("pager").replaceChildren();
  const input = h("input", { type: "number", min: 1, max: last, value: state.page, "aria-label": "page" });
  input.addEventListener("change", () => change({ page: Math.min(last, Math.max(1, parseInt(input.value, 10) || 1)), id: state.id }));
  return $("pager").replaceChildren(go(state.page - 1, "← Previous"), input, h("span", null, `of ${last.toLocaleString("en")}`), go(state.page + 1, "Next →"));
}

// ---- events -----------------------------------------------------------------------------------------------------------------
let typing = 0;
$("text").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => change({ text: $("text").value }), 150); });
for (const name of ["path", "verdict"]) $(name).addEventListener("change", () => change({ [name]: $(name).value }));
$("clear").addEventListener("click", () => { for (const name of ["path", "verdict", "text"]) $(name).value = ""; change({ path: "", verdict: "", text: "" }); });
$("filters").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { readAddress(); show(); });
