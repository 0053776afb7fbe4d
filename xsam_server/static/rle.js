// Masks as COCO run-length codes: compressed counts, column by column, background first.

const MAX_PIXELS = 2 ** 26; // more than the server accepts

/** Return the run lengths of a compressed counts string. */
export function parseCounts(counts) {
  const runs = [];
  let at = 0;
  while (at < counts.length) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      if (at >= counts.length || shift > 30) throw new Error("run-length code is cut off");
      const bits = counts.charCodeAt(at++) - 48;
      if (bits < 0 || bits > 63) throw new Error("run-length code has a character that is not allowed");
      value |= (bits & 31) << shift;
      shift += 5;
      more = (bits & 32) !== 0;
      if (!more && bits & 16) value |= shift < 32 ? -1 << shift : 0; // sign
    }
    if (runs.length > 2) value += runs[runs.length - 2]; // stored as a difference
    if (value < 0) throw new Error("run-length code has a negative run");
    runs.push(value);
  }
  return runs;
}

/** Decode a mask {size: [height, width], counts} into a Uint8Array (height · width), row by row, 1 = object. */
export function decodeMask({ size, counts }) {
  const [height, width] = size;
  if (!(height > 0 && width > 0 && height * width <= MAX_PIXELS)) throw new Error("mask has an impossible size");
  const runs = parseCounts(counts);
  if (runs.reduce((sum, run) => sum + run, 0) !== height * width) throw new Error("mask does not fill its picture");
  const mask = new Uint8Array(height * width);
  let row = 0;
  let column = 0;
  runs.forEach((run, index) => {
    for (let left = run; left > 0; ) {
      const step = Math.min(left, height - row);
      if (index % 2) for (let y = row; y < row + step; y++) mask[y * width + column] = 1;
      row += step;
      left -= step;
      if (row === height) {
        row = 0;
        column += 1;
      }
    }
  });
  return mask;
}

/** Intersection over union of two masks of one picture. */
export function maskIou(a, b) {
  let both = 0;
  let either = 0;
  for (let i = 0; i < a.length; i++) {
    both += a[i] & b[i];
    either += a[i] | b[i];
  }
  return either ? both / either : 0;
}
