/**
 * COCO run lengths in their text form: to bits, back, and to outlines. Bits lie column by column, at
 * `x * height + y`.
 */

/** The run lengths of a text: background, object, background, ... */
export function runsOf(counts) {
  const runs = [];
  for (let at = 0; at < counts.length;) {
    let run = 0;
    for (let shift = 0; ; shift += 5) {
      const part = counts.charCodeAt(at++) - 48;
      run |= (part & 31) << shift;
      if (part & 32) continue;
      if (part & 16 && shift < 27) run |= -1 << (shift + 5);
      break;
    }
    // from the third on, what is written is the difference to the run before the last
    if (runs.length > 2) run += runs[runs.length - 2];
    runs.push(run);
  }
  return runs;
}

/** The mask of an RLE. */
export function decode({ size: [height, width], counts }) {
  const bits = new Uint8Array(height * width);
  let at = 0;
  runsOf(counts).forEach((run, i) => {
    if (i % 2) bits.fill(1, at, at + run);
    at += run;
  });
  return bits;
}

/** The RLE of a mask. */
export function encode(bits, height, width) {
  const runs = [];
  for (let at = 0, value = 0; at < bits.length; value ^= 1) {
    let end = bits.indexOf(value ^ 1, at);
    if (end < 0) end = bits.length;
    runs.push(end - at);
    at = end;
  }
  let counts = "";
  runs.forEach((run, i) => {
    let rest = i > 2 ? run - runs[i - 2] : run;
    for (let more = true; more;) {
      const part = rest & 31;
      rest >>= 5;
      more = part & 16 ? rest !== -1 : rest !== 0;
      counts += String.fromCharCode(part + (more ? 32 : 0) + 48);
    }
  });
  return { size: [height, width], counts };
}

/** Closed outlines of a mask along its pixels' edges: arrays of x, y, x, y, ... The object lies to their right. */
export function outlines(bits, height, width) {
  const seen = new Uint8Array(bits.length); // upper edges that an outline has passed
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[x * height + y] === 1;
  const found = [];
  for (let at = bits.indexOf(1); at >= 0; at = bits.indexOf(1, at)) {
    let end = bits.indexOf(0, at);
    if (end < 0) end = bits.length;
    // every outline has an upper edge somewhere: where a run begins, or where it goes on at the top of a column
    for (; at < end; at += height - (at % height)) {
      const x = Math.floor(at / height);
      const y = at % height;
      if (!seen[at] && !inside(x, y - 1)) found.push(walk(inside, seen, height, x, y));
    }
    at = end;
  }
  return found;
}

const STEPS = [
  [1, 0],
  [0, 1],
  [-1, 0],
  [0, -1],
]; // right, down, left, up
const AHEAD_LEFT = [
  [0, -1],
  [0, 0],
  [-1, 0],
  [-1, -1],
];
const AHEAD_RIGHT = [
  [0, 0],
  [-1, 0],
  [-1, -1],
  [0, -1],
];

function walk(inside, seen, height, startX, startY) {
  const corners = [startX, startY];
  let [x, y, way] = [startX, startY, 0];
  do {
    if (way === 0) seen[x * height + y] = 1;
    x += STEPS[way][0];
    y += STEPS[way][1];
    let turned = way;
    if (!inside(x + AHEAD_RIGHT[way][0], y + AHEAD_RIGHT[way][1])) turned = (way + 1) % 4;
    else if (inside(x + AHEAD_LEFT[way][0], y + AHEAD_LEFT[way][1])) turned = (way + 3) % 4;
    if (turned !== way) corners.push(x, y);
    way = turned;
  } while (x !== startX || y !== startY || way !== 0);
  return corners.slice(0, -2);
}

/** Fill a thick line from one place to another into bits; `value` is 1 to paint, 0 to wipe. */
export function stroke(bits, height, width, from, to, radius, value) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length2 = dx * dx + dy * dy;
  const clamp = (v, most) => Math.max(0, Math.min(most, v));
  const left = clamp(Math.floor(Math.min(from.x, to.x) - radius), width);
  const right = clamp(Math.ceil(Math.max(from.x, to.x) + radius), width);
  const top = clamp(Math.floor(Math.min(from.y, to.y) - radius), height);
  const bottom = clamp(Math.ceil(Math.max(from.y, to.y) + radius), height);
  for (let x = left; x < right; x++) {
    for (let y = top; y < bottom; y++) {
      const [px, py] = [x + 0.5 - from.x, y + 0.5 - from.y];
      const along = length2 ? clamp((px * dx + py * dy) / length2, 1) : 0;
      const [qx, qy] = [px - along * dx, py - along * dy];
      if (qx * qx + qy * qy <= radius * radius) bits[x * height + y] = value;
    }
  }
}
