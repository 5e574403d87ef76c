/** The outline of a mask as rings of corners [x, y] that can be moved, and the mask of such rings. */

import { decode, outlines } from "./rle.js";
import { state } from "./state.js";

const MOST_WRONG = 0.05; // of a mask's pixels, that an outline of few corners may get wrong
const FINEST = 0.5; // pixels from which on corners are left as they are
const MOST = 100; // outlines that are remembered
const made = new Map();

/** Bits of everything within rings; what lies in two of them is a hole. */
export function fill(rings, height, width) {
  const bits = new Uint8Array(height * width);
  const crossings = Array.from({ length: width }, () => []);
  for (const ring of rings) {
    ring.forEach(([x1, y1], i) => {
      const [x2, y2] = ring[(i + 1) % ring.length];
      const [left, right] = x1 < x2 ? [x1, x2] : [x2, x1];
      for (let x = Math.max(0, Math.ceil(left - 0.5)); x < width && x + 0.5 < right; x++) {
        crossings[x].push(y1 + ((x + 0.5 - x1) / (x2 - x1)) * (y2 - y1));
      }
    });
  }
  const rowOf = (y) => Math.max(0, Math.min(height, Math.ceil(y - 0.5)));
  crossings.forEach((ys, x) => {
    ys.sort((a, b) => a - b);
    for (let i = 0; i + 1 < ys.length; i += 2) bits.fill(1, x * height + rowOf(ys[i]), x * height + rowOf(ys[i + 1]));
  });
  return bits;
}

/** Change bits where other rings have another inside: far from corners that were moved, each pixel stays as it is. */
export function refill(bits, height, width, before, after) {
  const [old, now] = [fill(before, height, width), fill(after, height, width)];
  for (let at = 0; at < bits.length; at++) if (old[at] !== now[at]) bits[at] = now[at];
}

/** Rings of few corners around bits: at most five in a hundred pixels of the mask lie on their wrong side. */
export function ringsOf(bits, height, width) {
  const exact = outlines(bits, height, width).map((flat) =>
    Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]),
  );
  let area = 0;
  for (const bit of bits) area += bit;
  for (let tolerance = Math.max(height, width) / 64; tolerance >= FINEST; tolerance /= 1.3) {
    const rings = exact.map((ring) => simplify(ring, tolerance)).filter((ring) => ring.length > 2);
    const filled = fill(rings, height, width);
    let wrong = 0;
    for (let at = 0; at < bits.length; at++) wrong += bits[at] ^ filled[at];
    if (wrong <= MOST_WRONG * area) return rings;
  }
  return exact;
}

/** The corners of a ring without those that lie nearer than `tolerance` to the line between others (Douglas, Peucker). */
function simplify(ring, tolerance) {
  const far = ring.reduce((best, [x, y], i) => {
    const away = Math.hypot(x - ring[0][0], y - ring[0][1]);
    return away > best.away ? { i, away } : best;
  }, { i: 0, away: 0 }).i;
  const kept = new Set([0, far]);
  const open = [[0, far], [far, ring.length]];
  while (open.length) {
    const [from, to] = open.pop();
    let [most, at] = [tolerance, -1];
    for (let i = from + 1; i < to; i++) {
      const away = distance(ring[i], ring[from], ring[to % ring.length]).away;
      if (away > most) [most, at] = [away, i];
    }
    if (at < 0) continue;
    kept.add(at);
    open.push([from, at], [at, to]);
  }
  return ring.filter((_, i) => kept.has(i));
}

/** How far a place is away from the line between two others, and what place of the line is nearest. */
export function distance([x, y], [x1, y1], [x2, y2]) {
  const [dx, dy] = [x2 - x1, y2 - y1];
  const length2 = dx * dx + dy * dy;
  const along = length2 ? Math.max(0, Math.min(1, ((x - x1) * dx + (y - y1) * dy) / length2)) : 0;
  const nearest = [x1 + along * dx, y1 + along * dy];
  return { away: Math.hypot(x - nearest[0], y - nearest[1]), nearest };
}

/** Remember the rings of a mask, so that their corners are found again where they were put. */
export function remember(rle, rings) {
  made.set(rle.counts, rings);
  for (const old of made.keys()) {
    if (made.size <= MOST) break;
    made.delete(old);
  }
}

const drafted = new WeakMap(); // rings after a stroke of the brush

/** The rings of the selected object on the frame that is shown, or of its draft; null if there is nothing. */
export function ringsShown() {
  const { draft, target, shown } = state;
  if (draft) {
    if (draft.frame !== shown || draft.target.id !== target.id || !draft.shape) return null;
    const last = draft.strokes.at(-1);
    if (last.rings) return last.rings;
    const { width, height } = state.session.media;
    if (!drafted.has(last)) drafted.set(last, ringsOf(draft.bits, height, width));
    return drafted.get(last);
  }
  const rle = state.objects.get(target.id)?.rles[shown];
  if (!rle) return null;
  if (!made.has(rle.counts)) remember(rle, ringsOf(decode(rle), ...rle.size));
  return made.get(rle.counts);
}
