// The answer in words: status, notes, and one line per object. Text from the server is only ever text.

import { PALETTE, css } from "./colors.js";

const TITLES = { found: "Found", unsure: "Unsure", not_found: "Not found", refused: "Refused", failed: "Failed" };

function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function place({ position_m, frame_id, reason }) {
  if (!position_m) return `no position: ${reason}`;
  return `at ${position_m.map((value) => value.toFixed(3)).join(", ")} m${frame_id ? ` in ${frame_id}` : ""}`;
}

export class ResultList {
  constructor(root, { onHover }) {
    this.find = (id) => root.querySelector(`#${id}`);
    this.onHover = onHover;
  }

  /** Show a line without an answer: waiting, or a failure of the connection. */
  say(message, status = "", hint = "") {
    this.show({ status, message, hint, segments: [] }, []);
  }

  show(result, objects) {
    const status = this.find("status");
    const count = objects.length ? `${objects.length} ${objects.length === 1 ? "object" : "objects"}` : "";
    const title = TITLES[result.status] ?? "";
    status.dataset.status = result.status;
    status.textContent = [[title, count].filter(Boolean).join(": "), result.message].filter(Boolean).join(" · ");
    const words = this.find("words");
    words.textContent = result.text ?? "";
    words.hidden = !result.text;
    const notes = [result.hint, ...(result.notes ?? [])].filter(Boolean);
    this.find("notes").replaceChildren(...notes.map((note) => element("li", "", note)));
    this.find("objects").replaceChildren(...objects.map((object, index) => this.line(object, index)));
    const stages = Object.entries(result.timing_s ?? {});
    this.find("timing").textContent = stages
      .map(([stage, seconds]) => `${stage.replaceAll("_", " ")} ${(1000 * seconds).toFixed(0)} ms`)
      .join(" · ");
  }

  line(object, index) {
    const item = document.createElement("li");
    item.tabIndex = 0;
    const number = element("span", "number", `${index + 1}${object.doubt ? "?" : ""}`);
    number.style.borderColor = css(PALETTE[object.color]);
    item.append(number, element("span", "label", object.label), element("span", "score", object.score.toFixed(2)));
    if (object.doubt) item.append(element("span", "doubt", object.doubt));
    if (object.location) item.append(element("span", "more", place(object.location)));
    for (const kind of ["pointerenter", "focus"]) item.addEventListener(kind, () => this.onHover(index));
    for (const kind of ["pointerleave", "blur"]) item.addEventListener(kind, () => this.onHover(-1));
    return item;
  }

  hover(index) {
    [...this.find("objects").children].forEach((item, at) => item.classList.toggle("hovered", at === index));
  }
}
