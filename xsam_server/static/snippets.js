// The question as code for others: Python, a shell, a ROS 2 service call.

/** Quote text for a POSIX shell. */
export function shellQuote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Quote text for Python and for YAML: JSON strings are both, once they are ASCII. */
function quote(text) {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

const tuple = (values) => `(${values.join(", ")})`;

function pythonPrompt({ kind, points_xy, box_xyxy, positive }) {
  const not = positive ? "" : ", positive=False";
  if (kind === "box") return `VisualPrompt.box(${box_xyxy.join(", ")}${not})`;
  if (kind === "scribble") return `VisualPrompt.scribble([${points_xy.map(tuple).join(", ")}]${not})`;
  return `VisualPrompt.point(${points_xy[0].join(", ")}${not})`;
}

export function python(query, fileName, origin) {
  const parts = [];
  if (query.text) parts.push(`text=${quote(query.text)}`);
  if (query.task) parts.push(`task=Task.${query.task.toUpperCase()}`);
  if (query.thing_classes) parts.push(`thing_classes=(${query.thing_classes.map((name) => `${quote(name)},`).join(" ")})`);
  if (query.prompts) parts.push(`prompts=(${query.prompts.map((prompt) => `${pythonPrompt(prompt)},`).join(" ")})`);
  if (query.score_threshold !== undefined) parts.push(`score_threshold=${query.score_threshold}`);
  const names = ["Frame", "Query", query.task && "Task", query.prompts && "VisualPrompt"].filter(Boolean).join(", ");
  return `from pathlib import Path

from xsam import ${names}
from xsam.inference.images import read_image
from xsam.remote import RemoteSegmenter

with RemoteSegmenter(${quote(origin)}) as segmenter:
    frame = Frame(rgb=read_image(Path(${quote(fileName)})))
    query = Query(${parts.join(", ")})
    (result,) = segmenter.segment(frame, [query], deadline_s=60.0)
    print(result.status.value, result.segments.labels)
`;
}

export function curl(query, fileName, origin) {
  return `curl -sS ${shellQuote(`${origin}/v1/segment`)} \\
  -F ${shellQuote(`image=@${fileName}`)} \\
  -F ${shellQuote(`request=${JSON.stringify({ queries: [query] })}`)}
`;
}

// Numbers of msg/SegmentQuery.msg and msg/VisualPrompt.msg.
const ROS_TASKS = { grounded_conversation: 5, interactive: 6, visual_grounded: 7 };
const ROS_KINDS = { point: 1, box: 2, scribble: 3 };

function yamlPrompt({ kind, points_xy, box_xyxy, positive }) {
  const parts = [`kind: ${ROS_KINDS[kind]}`];
  if (!positive) parts.push("negative: true");
  if (points_xy) parts.push(`points: [${points_xy.map(([x, y]) => `{x: ${x}, y: ${y}}`).join(", ")}]`);
  if (box_xyxy) {
    const names = ["x_min", "y_min", "x_max", "y_max"];
    parts.push(`box: {${names.map((name, index) => `${name}: ${box_xyxy[index]}`).join(", ")}}`);
  }
  return `{${parts.join(", ")}}`;
}

export function ros2(query, camera, node) {
  const parts = [];
  if (query.task) parts.push(`task: ${ROS_TASKS[query.task]}`);
  if (query.text) parts.push(`text: ${quote(query.text)}`);
  if (query.thing_classes) parts.push(`thing_classes: [${query.thing_classes.map(quote).join(", ")}]`);
  if (query.prompts) parts.push(`prompts: [${query.prompts.map(yamlPrompt).join(", ")}]`);
  if (query.score_threshold !== undefined) parts.push(`score_threshold: ${query.score_threshold}`);
  const request = `{camera: ${quote(camera)}, queries: [{${parts.join(", ")}}]}`;
  return `ros2 service call ${node}/segment xsam_ros/srv/Segment ${shellQuote(request)}\n`;
}
