// The page: a picture, a question, an answer. Nothing here knows the model.

import { Server } from "./api.js";
import { assignColors } from "./colors.js";
import { MAX_MARKS, MarkTool } from "./marks.js";
import { ResultList } from "./results.js";
import { decodeMask } from "./rle.js";
import * as snippets from "./snippets.js";
import { PictureSource } from "./sources.js";
import { View } from "./view.js";

const PAUSE_MS = 200; // after the last change of the slider, before asking again

const find = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

const server = new Server(document.baseURI);
const view = new View(find("view"));
const results = new ResultList(find("answer"), { onHover: hover });
const tool = new MarkTool(view, { onMark: addMark, onHover: hover });

let picture = null; // {blob, name, camera} as it is sent
let objects = []; // of the last answer, with masks and colors
let asked = null; // the query of the last answer
let running = null; // AbortController of the question that is under way
let pause = 0;
let rosNode = "/xsam"; // that answers, or would

// ------------------------------------------------------------------------------------- question

/** Return the query that the page shows, or null when it asks nothing. */
function currentQuery() {
  const query = {};
  const threshold = Number(find("threshold").value);
  if (threshold > 0) query.score_threshold = threshold;
  if (view.marks.length) {
    query.task = find("similar").checked ? "visual_grounded" : "interactive";
    query.prompts = view.marks;
    return query;
  }
  const text = find("text").value.trim();
  const kind = chosen("kind");
  if (kind === "categories") {
    query.thing_classes = [...new Set(text.split(/[,;\n]/).map((name) => name.trim()).filter(Boolean))];
    return query.thing_classes.length ? query : null;
  }
  if (kind === "grounded_conversation") return { ...query, task: kind, text };
  return text ? { ...query, text } : null;
}

async function ask() {
  clearTimeout(pause);
  running?.abort();
  const query = currentQuery();
  if (!picture || !query) {
    if (!picture) results.say("Open a picture first.");
    return;
  }
  const control = (running = new AbortController());
  find("stage").dataset.busy = "true";
  try {
    const { result, roundTripMs } = await server.segment(picture.blob, query, {
      signal: control.signal,
      onStage: (stage) => control === running && results.say(`${stage.replaceAll("_", " ")} …`),
    });
    if (control === running) showResult(query, result, roundTripMs);
  } catch (error) {
    if (control !== running || error.name === "AbortError") return;
    forget();
    results.say(error.message, error.status ?? "failed", error.hint);
  } finally {
    if (control === running) {
      running = null;
      find("stage").dataset.busy = "false";
    }
  }
}

function showResult(query, result, roundTripMs) {
  const { width, height } = result.image;
  if (width !== view.layer.width || height !== view.layer.height) {
    forget();
    const seen = `${width} × ${height}`;
    results.say(`The server saw a picture of ${seen}, not the one shown here. Its masks are not drawn.`, "failed");
    return;
  }
  asked = query;
  objects = assignColors(
    result.segments.map((segment) => ({ ...segment, mask: decodeMask(segment.mask), rle: segment.mask })),
    objects,
  );
  view.setObjects(objects);
  const timing = { ...result.timing_s, "round trip": roundTripMs / 1000 };
  results.show({ ...result, timing_s: timing }, objects);
  find("model").textContent = result.model;
  updateButtons();
}

/** Take the last answer from the picture: it no longer belongs to what is shown. */
function forget() {
  asked = null;
  objects = [];
  view.setObjects([]);
  updateButtons();
}

// ---------------------------------------------------------------------------------------- marks

function addMark(mark) {
  if (view.marks.length >= MAX_MARKS) {
    results.say(`At most ${MAX_MARKS} marks fit into one question; take some back.`);
    return;
  }
  setMarks([...view.marks, mark]);
}

function setMarks(marks) {
  view.marks = marks;
  view.draw();
  updateButtons();
  if (marks.some((mark) => mark.positive)) ask();
  else {
    running?.abort();
    forget();
    results.say(marks.length ? "Mark what you mean, too: a click without Shift." : "Nothing asked yet.");
  }
}

function hover(index) {
  view.hover(index);
  results.hover(index);
}

function updateButtons() {
  find("undo").disabled = find("clear").disabled = !view.marks.length;
  for (const button of find("take").querySelectorAll("button")) button.disabled = !asked;
}

// -------------------------------------------------------------------------------------- picture

const source = new PictureSource({
  onPicture: async (next, bitmap) => {
    running?.abort();
    picture = next;
    view.marks = [];
    asked = null;
    objects = [];
    view.setPicture(bitmap);
    find("empty").hidden = true;
    updateButtons();
    results.say("Nothing asked yet.");
    if (currentQuery()) await ask();
  },
  onProblem: (message, hint) => results.say(message, "failed", hint),
  server,
});

// --------------------------------------------------------------------------------- use an answer

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function cocoJson() {
  const names = [...new Set(objects.map((object) => object.label))];
  return {
    images: [{ id: 1, file_name: picture.name, width: view.layer.width, height: view.layer.height }],
    categories: names.map((name, index) => ({ id: index + 1, name })),
    annotations: objects.map(({ label, score, rle, area_px, box_xyxy: [x0, y0, x1, y1] }, index) => ({
      id: index + 1,
      image_id: 1,
      category_id: names.indexOf(label) + 1,
      segmentation: rle,
      area: area_px,
      bbox: [x0, y0, x1 - x0, y1 - y0],
      iscrowd: 0,
      score,
    })),
  };
}

async function copy(kind) {
  const text = {
    python: () => snippets.python(asked, picture.name, server.origin),
    curl: () => snippets.curl(asked, picture.name, server.origin),
    ros2: () => snippets.ros2(asked, picture.camera ?? "CAMERA", rosNode),
  }[kind]();
  const shown = find("copied");
  shown.textContent = text;
  shown.hidden = false;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(shown); // no clipboard without https: select it for Ctrl+C
  }
}

// --------------------------------------------------------------------------------------- wiring

const stem = () => picture.name.replace(/\.[^.]*$/, "");

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  view.marks = [];
  view.draw();
  updateButtons();
  ask();
});
find("threshold").addEventListener("input", () => {
  const value = Number(find("threshold").value);
  find("threshold_value").textContent = value > 0 ? value.toFixed(2) : "model’s own";
  clearTimeout(pause);
  if (asked) pause = setTimeout(ask, PAUSE_MS);
});
find("similar").addEventListener("change", () => view.marks.length && ask());
find("undo").addEventListener("click", () => setMarks(view.marks.slice(0, -1)));
find("clear").addEventListener("click", () => setMarks([]));
find("token_form").addEventListener("submit", (event) => {
  event.preventDefault();
  server.token = find("token").value.trim();
  server.check();
});
for (const input of document.querySelectorAll('input[name="tool"]')) {
  input.addEventListener("change", () => (tool.kind = chosen("tool")));
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button.dataset.copy));
}
find("save_png").addEventListener("click", async () => save(await view.png(), `${stem()}_masks.png`));
find("save_coco").addEventListener("click", () => {
  save(new Blob([JSON.stringify(cocoJson())], { type: "application/json" }), `${stem()}_coco.json`);
});

const KEYS = { p: "point", b: "box", s: "scribble" };

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type='radio'], [type='checkbox']), select");
  if (event.key === "Escape") {
    if (tool.start) tool.cancel();
    else if (view.marks.length) setMarks([]);
  } else if (typing) return;
  else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    if (view.marks.length) setMarks(view.marks.slice(0, -1));
  } else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key === "/") find("text").focus();
  else if (event.key === "Backspace" && view.marks.length) setMarks(view.marks.slice(0, -1));
  else if (event.key.toLowerCase() in KEYS) {
    document.querySelector(`input[name="tool"][value="${KEYS[event.key.toLowerCase()]}"]`).click();
  } else return;
  event.preventDefault();
});

server.onLink = ({ up, words, model = "", node = "/xsam", cameras = [] }) => {
  rosNode = node;
  find("link").dataset.up = String(up);
  find("link").textContent = words;
  if (model) find("model").textContent = model;
  if (up) source.offerCameras(cameras);
};
server.watch();
updateButtons();
