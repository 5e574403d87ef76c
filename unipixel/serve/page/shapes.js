/** Masks as shapes that a canvas can fill, made when first drawn. */

import { decode, outlines } from "./rle.js";
import { isListed, listed, state } from "./state.js";

const made = new WeakMap();

/** The shape of bits: {path, area, peak: [x, y] of the highest corner of its largest part}; null if none is set. */
export function shapeOf(bits, height, width) {
  const path = new Path2D();
  let peak = null;
  let largest = 0;
  let area = 0;
  for (const corners of outlines(bits, height, width)) {
    let highest = [0, Infinity];
    let lowest = -Infinity;
    path.moveTo(corners[0], corners[1]);
    for (let i = 0; i < corners.length; i += 2) {
      const [x, y] = [corners[i], corners[i + 1]];
      if (i) path.lineTo(x, y);
      const j = (i + 2) % corners.length;
      area += (x * corners[j + 1] - corners[j] * y) / 2; // outlines of holes go the other way round
      if (y < highest[1]) highest = [x, y];
      lowest = Math.max(lowest, y);
    }
    if (lowest - highest[1] > largest) [peak, largest] = [highest, lowest - highest[1]];
    path.closePath();
  }
  return peak && { path, peak, area };
}

/** The shape of an object on a frame; null where it is not visible. */
export function shapeOn(object, t) {
  const rle = object.rles[t];
  if (!rle) return null;
  if (!made.has(rle)) made.set(rle, shapeOf(decode(rle), ...rle.size));
  return made.get(rle);
}

/** Objects that are drawn on the frame that is shown, with their shapes; small ones come last, above large ones. */
export function drawn() {
  const found = [];
  for (const object of listed()) {
    // one that is pointed at is shown even if it is hidden
    const isShown = !state.view.isHidden && !state.hidden.has(object.id) && isListed(object);
    if (!isShown && state.lit !== object.id) continue;
    const shape = shapeOn(object, state.shown);
    if (shape) found.push({ object, shape });
  }
  return found.sort((a, b) => b.shape.area - a.shape.area);
}

const context = document.createElement("canvas").getContext("2d");

/** Whether an object is at a place of the frame that is shown. */
export function isAt(object, { x, y }) {
  const shape = shapeOn(object, state.shown);
  return Boolean(shape) && context.isPointInPath(shape.path, x, y, "evenodd");
}

/** The uppermost object at a place of the frame that is shown, or null. */
export function objectAt({ x, y }) {
  const hit = drawn().findLast(({ shape }) => context.isPointInPath(shape.path, x, y, "evenodd"));
  return hit ? hit.object : null;
}
