// The picture with its masks and marks on a canvas. Coordinates are pixels of the picture, (x, y).

import { PALETTE, css } from "./colors.js";

const FILL = 0.42;
const FILL_HOVERED = 0.72;
const FILL_OTHERS = 0.16; // of the others while one is hovered
const MARK = { true: "rgb(0 190 140)", false: "rgb(240 80 40)" };

/** Draw one color over the pixels of a mask; its border is opaque. */
function paintMask(pixels, mask, width, height, [r, g, b], alpha) {
  const fill = Math.round(alpha * 255);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      const border =
        x === 0 || y === 0 || x === width - 1 || y === height - 1 ||
        !mask[i - 1] || !mask[i + 1] || !mask[i - width] || !mask[i + width];
      pixels.set([r, g, b, border ? 255 : fill], 4 * i);
    }
  }
}

/**
 * Return a place for the number of a mask: the middle of a wide row, near its center, away from other numbers.
 */
function placeForNumber(mask, width, [x0, y0, x1, y1], taken) {
  const middle = (y0 + y1) / 2;
  const room = width / 18; // between two numbers
  let best = { x: (x0 + x1) / 2, y: middle, rank: -Infinity };
  for (let y = Math.floor(y0); y < y1; y++) {
    let start = -1;
    for (let x = Math.floor(x0); x <= x1; x++) {
      const inside = x < Math.min(x1, width) && mask[y * width + x];
      if (inside && start < 0) start = x;
      if (inside || start < 0) continue;
      const at = { x: (start + x) / 2, y: y + 0.5 };
      const crowded = taken.some((other) => Math.hypot(other.x - at.x, other.y - at.y) < room);
      const rank = x - start - 0.5 * Math.abs(y - middle) - (crowded ? width : 0);
      if (rank > best.rank) best = { ...at, rank };
      start = -1;
    }
  }
  return best;
}

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.picture = null; // ImageBitmap
    this.objects = []; // {mask, box_xyxy, color, doubt, …}
    this.marks = []; // prompts as they are sent
    this.draft = null; // the mark that is being drawn
    this.cursor = null; // of the keyboard
    this.hovered = -1;
    this.layer = document.createElement("canvas");
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  setPicture(picture) {
    this.picture?.close();
    this.picture = picture;
    this.layer.width = picture.width;
    this.layer.height = picture.height;
    this.canvas.style.setProperty("--ratio", `${picture.width} / ${picture.height}`);
    this.setObjects([]);
  }

  setObjects(objects) {
    const taken = [];
    this.objects = objects.map((object) => {
      taken.push(placeForNumber(object.mask, this.layer.width, object.box_xyxy, taken));
      return { ...object, number: taken.at(-1) };
    });
    this.hovered = -1;
    this.paintLayer();
    this.draw();
  }

  hover(index) {
    if (index === this.hovered) return;
    this.hovered = index;
    this.paintLayer();
    this.draw();
  }

  /** Return the index of the smallest object at a pixel, or -1. */
  objectAt(x, y) {
    const at = y * this.layer.width + x;
    let best = -1;
    this.objects.forEach((object, index) => {
      if (object.mask[at] && (best < 0 || object.area_px < this.objects[best].area_px)) best = index;
    });
    return best;
  }

  /** Return where a pointer event is in the picture, from 0 to (width, height); pixel (0, 0) ends at 1. */
  positionOf(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const clamp = (value, size) => Math.min(Math.max(value, 0), size);
    return [
      clamp(((event.clientX - left) * this.layer.width) / width, this.layer.width),
      clamp(((event.clientY - top) * this.layer.height) / height, this.layer.height),
    ];
  }

  /** Return the pixel under a pointer event. */
  pixelOf(event) {
    const [x, y] = this.positionOf(event);
    return [Math.min(Math.floor(x), this.layer.width - 1), Math.min(Math.floor(y), this.layer.height - 1)];
  }

  paintLayer() {
    const { width, height } = this.layer;
    const context = this.layer.getContext("2d");
    const image = context.createImageData(width, height);
    const order = this.objects.map((_, index) => index).sort((a, b) => (a === this.hovered) - (b === this.hovered));
    for (const index of order) {
      const object = this.objects[index];
      const others = this.hovered < 0 ? FILL : FILL_OTHERS;
      const alpha = index === this.hovered ? FILL_HOVERED : others;
      paintMask(image.data, object.mask, width, height, PALETTE[object.color], alpha);
    }
    context.putImageData(image, 0, 0);
  }

  /** Draw everything at the resolution of the screen. */
  draw() {
    if (!this.picture) return;
    const box = this.canvas.getBoundingClientRect();
    const dots = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(box.width * dots));
    this.canvas.height = Math.max(1, Math.round(box.height * dots));
    const scale = this.canvas.width / this.layer.width;
    this.paint(this.context, scale, dots, true);
  }

  /** Return the picture with masks and numbers, at its own size, as a PNG blob. */
  async png() {
    const canvas = document.createElement("canvas");
    canvas.width = this.layer.width;
    canvas.height = this.layer.height;
    this.paint(canvas.getContext("2d"), 1, Math.max(1, this.layer.width / 640), false);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  paint(context, scale, unit, withMarks) {
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, 0, 0);
    context.drawImage(this.layer, 0, 0);
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.objects.forEach((object, index) => this.paintNumber(context, scale, unit, object, index));
    if (!withMarks) return;
    for (const mark of this.draft ? [...this.marks, this.draft] : this.marks) paintMark(context, scale, unit, mark);
    if (this.cursor) paintCursor(context, scale, unit, this.cursor);
  }

  paintNumber(context, scale, unit, object, index) {
    const [x, y] = [object.number.x * scale, object.number.y * scale];
    const text = `${index + 1}${object.doubt ? "?" : ""}`;
    context.font = `600 ${12 * unit}px system-ui, sans-serif`;
    const half = Math.max(9 * unit, context.measureText(text).width / 2 + 5 * unit);
    context.beginPath();
    context.roundRect(x - half, y - 9 * unit, 2 * half, 18 * unit, 9 * unit);
    context.fillStyle = "rgb(10 16 22 / 0.88)";
    context.fill();
    context.lineWidth = 1.5 * unit;
    context.setLineDash(object.doubt ? [3 * unit, 2 * unit] : []);
    context.strokeStyle = css(PALETTE[object.color]);
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = "white";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x, y + 0.5 * unit);
  }
}

function paintMark(context, scale, unit, mark) {
  const at = ([x, y]) => [(x + 0.5) * scale, (y + 0.5) * scale]; // centers of pixels
  const path = new Path2D();
  if (mark.kind === "box") {
    const [x0, y0, x1, y1] = mark.box_xyxy.map((value) => value * scale);
    path.rect(x0, y0, x1 - x0, y1 - y0);
  } else if (mark.kind === "scribble") {
    mark.points_xy.forEach((point, index) => path[index ? "lineTo" : "moveTo"](...at(point)));
  } else {
    const [x, y] = at(mark.points_xy[0]);
    path.arc(x, y, 6 * unit, 0, 2 * Math.PI);
    path.moveTo(x - 3 * unit, y);
    path.lineTo(x + 3 * unit, y);
    if (mark.positive) {
      path.moveTo(x, y - 3 * unit);
      path.lineTo(x, y + 3 * unit);
    }
  }
  context.lineJoin = context.lineCap = "round";
  context.strokeStyle = "rgb(10 16 22 / 0.85)";
  context.lineWidth = 5 * unit;
  context.stroke(path);
  context.strokeStyle = MARK[mark.positive];
  context.lineWidth = 2.2 * unit;
  context.stroke(path);
}

function paintCursor(context, scale, unit, [x, y]) {
  const [cx, cy] = [(x + 0.5) * scale, (y + 0.5) * scale];
  for (const [style, width] of [["rgb(10 16 22 / 0.85)", 3.5], ["white", 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(cx + 4 * dx * unit, cy + 4 * dy * unit);
      context.lineTo(cx + 12 * dx * unit, cy + 12 * dy * unit);
    }
    context.stroke();
  }
}
