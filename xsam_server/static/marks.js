// Marks on the picture by pointer and keyboard: points, boxes, strokes.

const MIN_BOX_PX = 3;
const MIN_STEP_PX = 2; // between points of a stroke
const MAX_STROKE_POINTS = 2000;
export const MAX_MARKS = 32;

/**
 * Turn pointer and key events of the view into marks, and report each finished one.
 *
 * A mark is a visual prompt as the server reads it: {kind, points_xy | box_xyxy, positive}.
 */
export class MarkTool {
  constructor(view, { onMark, onHover }) {
    this.view = view;
    this.kind = "point";
    this.onMark = onMark;
    this.start = null;
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => {
      if (this.start) this.move(event);
      else if (view.picture) onHover(view.objectAt(...view.pixelOf(event)));
    });
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => !this.start && onHover(-1));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("blur", () => this.moveCursor(null));
  }

  down(event) {
    if (!this.view.picture || event.button > 2) return;
    this.view.canvas.setPointerCapture(event.pointerId);
    this.start = this.view.pixelOf(event);
    this.corner = this.view.positionOf(event);
    this.positive = !(event.shiftKey || event.button === 2);
    this.moveCursor(null);
    if (this.kind === "scribble") this.draft({ kind: "scribble", points_xy: [this.start], positive: this.positive });
  }

  move(event) {
    if (this.kind === "box") this.draft(this.box(this.view.positionOf(event)));
    const [x, y] = this.view.pixelOf(event);
    if (this.kind !== "scribble") return;
    const points = this.view.draft.points_xy;
    const [lastX, lastY] = points[points.length - 1];
    const far = Math.hypot(x - lastX, y - lastY) >= MIN_STEP_PX;
    if (far && points.length < MAX_STROKE_POINTS) this.draft({ ...this.view.draft, points_xy: [...points, [x, y]] });
  }

  up(event) {
    if (!this.start) return;
    this.move(event);
    const { draft } = this.view;
    const point = { kind: "point", points_xy: [this.start], positive: this.positive };
    this.cancel();
    if (this.kind === "point") this.onMark(point);
    else if (this.kind === "scribble") this.onMark(draft.points_xy.length > 1 ? draft : point);
    else if (draft) {
      const [x0, y0, x1, y1] = draft.box_xyxy;
      if (x1 - x0 >= MIN_BOX_PX && y1 - y0 >= MIN_BOX_PX) this.onMark(draft);
    }
  }

  /** Drop the mark that is being drawn. */
  cancel() {
    this.start = null;
    this.draft(null);
  }

  box([x, y]) {
    const [x0, y0] = this.corner;
    const edges = [Math.min(x0, x), Math.min(y0, y), Math.max(x0, x), Math.max(y0, y)];
    const box_xyxy = edges.map(Math.round);
    return { kind: "box", box_xyxy, positive: this.positive };
  }

  draft(mark) {
    this.view.draft = mark;
    this.view.draw();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.view.picture || event.altKey || event.ctrlKey || event.metaKey) return;
    const { width, height } = this.view.layer;
    const [x, y] = this.view.cursor ?? [Math.round(width / 2), Math.round(height / 2)];
    if (event.key in steps) {
      const reach = event.shiftKey ? 1 : Math.max(2, Math.round(width / 64));
      const [dx, dy] = steps[event.key];
      this.moveCursor([
        Math.min(Math.max(x + dx * reach, 0), width - 1),
        Math.min(Math.max(y + dy * reach, 0), height - 1),
      ]);
    } else if (event.key === "Enter" || event.key === " ") {
      this.moveCursor([x, y]);
      this.onMark({ kind: "point", points_xy: [[x, y]], positive: !event.shiftKey });
    } else return;
    event.preventDefault();
  }

  moveCursor(xy) {
    this.view.cursor = xy;
    this.view.draw();
  }
}
