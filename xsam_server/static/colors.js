// Colors that stay with their object from answer to answer.

import { maskIou } from "./rle.js";

// The palette of xsam/draw/shapes.py: neighbors also differ for color-blind viewers.
export const PALETTE = [
  [255, 170, 20], [255, 140, 205], [165, 80, 200], [225, 225, 225], [64, 176, 255], [0, 190, 140],
  [70, 100, 240], [240, 80, 40], [250, 235, 70], [170, 110, 60], [180, 220, 80], [150, 225, 245],
];

const SAME_OBJECT_IOU = 0.5;

export const css = ([r, g, b], alpha = 1) => `rgb(${r} ${g} ${b} / ${alpha})`;

function boxesOverlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

/**
 * Give each object a color: that of the object before it which it covers, else one that is free.
 *
 * Objects are {mask, box_xyxy}; those before also have `color`, an index into the palette.
 */
export function assignColors(objects, before) {
  const taken = new Set();
  const colors = objects.map((object) => {
    let best = null;
    let bestIou = SAME_OBJECT_IOU;
    for (const old of before) {
      if (taken.has(old.color) || old.mask.length !== object.mask.length) continue;
      if (!boxesOverlap(old.box_xyxy, object.box_xyxy)) continue;
      const iou = maskIou(old.mask, object.mask);
      if (iou >= bestIou) [best, bestIou] = [old.color, iou];
    }
    if (best !== null) taken.add(best);
    return best;
  });
  let next = 0;
  return objects.map((object, index) => {
    let color = colors[index];
    if (color === null) {
      while (taken.has(next % PALETTE.length) && next < PALETTE.length) next += 1;
      color = next % PALETTE.length;
      next += 1;
      taken.add(color);
    }
    return { ...object, color };
  });
}
