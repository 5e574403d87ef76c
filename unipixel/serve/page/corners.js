/** The corners of an outline, taken hold of by pointer, finger or key: moved, added on an edge, removed. */

import { reshape } from "./draft.js";
import { announce, inform } from "./notices.js";
import { distance, ringsShown } from "./outline.js";
import { doing, redraw, shownScale } from "./stage.js";
import { on } from "./state.js";

const overlay = document.getElementById("overlay");

/** The corner, or else the edge, that is nearest to a place and at most `reach` CSS pixels away; null if none is. */
function find({ x, y }, reach) {
  let [most, found] = [reach / shownScale(), null];
  const rings = ringsShown() ?? [];
  rings.forEach((ring, r) =>
    ring.forEach((corner, i) => {
      const away = Math.hypot(corner[0] - x, corner[1] - y);
      if (away <= most) [most, found] = [away, { ring: r, corner: i }];
    }),
  );
  if (found) return found;
  rings.forEach((ring, r) =>
    ring.forEach((corner, i) => {
      const { away, nearest } = distance([x, y], corner, ring[(i + 1) % ring.length]);
      if (away <= most) [most, found] = [away, { ring: r, corner: i + 1, nearest }];
    }),
  );
  return found;
}

/** Show which corner, or which place of an edge, would be taken hold of. */
export function point(place, reach) {
  doing.ghost = place && !doing.rings ? (find(place, reach)?.nearest ?? null) : null;
}

/** Take hold of the corner at a place, or of one that is made on the edge there. Whether there is one. */
export function hold(place, reach) {
  const found = find(place, reach);
  if (!found) return false;
  const rings = ringsShown().map((ring) => ring.map((corner) => [...corner]));
  if (found.nearest) rings[found.ring].splice(found.corner, 0, found.nearest);
  Object.assign(doing, { rings, at: found, ghost: null });
  doing.isMoved = Boolean(found.nearest);
  return true;
}

/** Move the corner that is held. */
export function move({ x, y }) {
  doing.rings[doing.at.ring][doing.at.corner] = [x, y];
  doing.isMoved = true;
}

/** Let go of the corner: where it is now, it stays. */
export function drop() {
  const { rings, isMoved } = doing;
  doing.rings = null;
  if (isMoved) reshape(ringsShown(), rings);
  redraw();
}

/** Remove the corner at a place, or the one that was taken hold of last. Whether there is one. */
export function removeCorner(place = null, reach = 0) {
  const rings = ringsShown();
  const found = place ? find(place, reach) : doing.at;
  if (!rings?.[found?.ring]?.[found.corner] || found.nearest) return false;
  const rest = rings.map((ring, r) => (r === found.ring ? ring.filter((_, i) => i !== found.corner) : ring));
  if (rest[found.ring].length < 3) rest.splice(found.ring, 1); // what is left of a part or a hole is none
  if (!rest.length) {
    inform("An outline needs three corners; delete the object if it is not there.");
    return true;
  }
  doing.at = null;
  reshape(rings, rest);
  announce("The corner is removed.");
  return true;
}

/** Go on to the next corner, or back to the one before, by key. */
export function step(by) {
  const rings = ringsShown();
  if (!rings?.length) return inform("Select an object that is here first; its outline can then be changed.");
  const all = rings.flatMap((ring, r) => ring.map((_, i) => ({ ring: r, corner: i })));
  const now = all.findIndex((one) => one.ring === doing.at?.ring && one.corner === doing.at.corner);
  const next = now < 0 ? (by > 0 ? 0 : all.length - 1) : (now + by + all.length) % all.length;
  const [x, y] = rings[all[next].ring][all[next].corner];
  Object.assign(doing, { at: all[next], crosshair: { x, y } });
  overlay.focus();
  announce(`Corner ${next + 1} of ${all.length}, at ${Math.round(x)}, ${Math.round(y)}. Enter takes hold of it.`);
  redraw();
}

on("session tool target frame", () => Object.assign(doing, { at: null, ghost: null, rings: null }));
