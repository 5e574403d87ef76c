/** The picture with masks and prompts above it. All places are pixels of the source. */

import { colourOf } from "./colours.js";
import { brushDiameter } from "./draft.js";
import { frame, wanted } from "./frames.js";
import { ringsShown } from "./outline.js";
import { drawn } from "./shapes.js";
import { listed, nameOf, on, state, wordOf } from "./state.js";

const MOST_SIDE = 4096; // of a canvas
const LARGEST_ZOOM = 16;
const stage = document.getElementById("stage");
const sheet = document.getElementById("sheet");
const picture = document.getElementById("picture");
const overlay = document.getElementById("overlay");
const wait = document.getElementById("stage-wait");

/**
 * What the visitor is doing with the pointer or the crosshair: drawn above everything. Of an outline: `rings` while a
 * corner is moved, the corner `at` {ring, corner} that was taken last, the `ghost` of one that would be made.
 */
export const doing = { cursor: null, crosshair: null, box: null, line: null, rings: null, at: null, ghost: null };

let scale = 1; // CSS pixels per source pixel
let ratio = 1; // canvas pixels per CSS pixel
let bitmap = null;
let isQueued = false;

/** CSS pixels per source pixel. */
export function shownScale() {
  return scale;
}

/** The source pixel under a pointer, within the picture. */
export function placeOf(event) {
  const rect = overlay.getBoundingClientRect();
  const { width, height } = state.session.media;
  const clamp = (v, most) => Math.round(Math.max(0, Math.min(most - 0.1, v)) * 10) / 10;
  return {
    x: clamp(((event.clientX - rect.left) / rect.width) * width, width),
    y: clamp(((event.clientY - rect.top) / rect.height) * height, height),
  };
}

/** Zoom by a factor; what is in the middle, or at a place of the source, stays where it is. 0 fits the picture in. */
export function zoomBy(factor, place = null) {
  const view = stage.getBoundingClientRect();
  const middle = { clientX: view.left + view.width / 2, clientY: view.top + view.height / 2 };
  const { x, y } = place ?? placeOf(middle);
  const before = sheet.getBoundingClientRect();
  const [left, top] = [before.left + x * scale, before.top + y * scale];
  state.zoom = factor ? Math.max(1, Math.min(LARGEST_ZOOM, state.zoom * factor)) : 1;
  fit();
  const now = sheet.getBoundingClientRect();
  stage.scrollBy(now.left + x * scale - left, now.top + y * scale - top);
}

function fit() {
  if (!state.session || !stage.clientWidth) return;
  const { width, height } = state.session.media;
  const padding = parseFloat(getComputedStyle(stage).paddingLeft);
  // without scroll bars, which come and go with the zoom
  scale = Math.min((stage.offsetWidth - 2 * padding) / width, (stage.offsetHeight - 2 * padding) / height) * state.zoom;
  const [shownWidth, shownHeight] = [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
  sheet.style.width = `${shownWidth}px`;
  sheet.style.height = `${shownHeight}px`;
  ratio = Math.min(devicePixelRatio, MOST_SIDE / Math.max(shownWidth, shownHeight));
  for (const canvas of [picture, overlay]) {
    canvas.width = Math.round(shownWidth * ratio);
    canvas.height = Math.round(shownHeight * ratio);
  }
  document.getElementById("zoom-text").value = `${Math.round(scale * 100)} %`;
  if (wanted(shownWidth * ratio)) load();
  drawPicture();
  redraw();
}

async function load() {
  const [session, t] = [state.session, state.frame];
  stage.classList.toggle("is-waiting", !bitmap);
  wait.textContent = "Loading the picture…";
  try {
    const found = await frame(t);
    if (state.session?.id !== session.id) return;
    if (state.frame !== t) return;
    bitmap = found;
    state.shown = t;
    stage.classList.remove("is-waiting");
    drawPicture();
    draw(); // at once: masks never lie above another frame's picture
  } catch (error) {
    wait.textContent = `The picture cannot be shown. ${error.message}`; // where it would be
    if (bitmap) stage.classList.remove("is-waiting");
    stage.dispatchEvent(new CustomEvent("failed", { detail: error }));
  }
}

function drawPicture() {
  const context = picture.getContext("2d");
  context.clearRect(0, 0, picture.width, picture.height);
  if (!bitmap) return;
  const isEnlarged = picture.width > 2 * bitmap.width;
  context.imageSmoothingEnabled = !isEnlarged; // single pixels are to be seen as such
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, picture.width, picture.height);
}

/** Draw masks and prompts again, soon. */
export function redraw() {
  if (isQueued) return;
  isQueued = true;
  requestAnimationFrame(() => {
    isQueued = false;
    if (state.session) draw();
  });
}

function draw() {
  const context = overlay.getContext("2d");
  const unit = scale * ratio; // canvas pixels per source pixel
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, overlay.width, overlay.height);
  const { width, height } = state.session.media;
  context.setTransform(overlay.width / width, 0, 0, overlay.height / height, 0, 0);
  context.lineJoin = context.lineCap = "round";
  const px = ratio / unit; // one CSS pixel
  const masks = drawn();
  overlay.dataset.shown = state.shown ?? "";
  overlay.dataset.masks = masks
    .map(({ object }) => object.id)
    .sort((a, b) => a - b)
    .join(" ");
  overlay.dataset.lit = state.lit ?? "";
  for (const { object, shape } of masks) {
    // what is painted stands for the whole mask
    if (state.draft?.frame === state.shown && state.draft.target.id === object.id) continue;
    drawMask(context, shape, object, px);
  }
  if (state.draft?.frame === state.shown) drawDraft(context, px);
  const tags = [];
  for (const { object, shape } of masks) drawTag(context, object, shape, px, tags);
  drawPrompts(context, px);
  overlay.dataset.corners = "";
  if (state.tool === "polygon") drawCorners(context, px);
  drawDoing(context, px);
}

function drawMask(context, shape, { id, score }, px) {
  const { opacity, isOutline } = state.view;
  const isLit = state.lit === id;
  const isDimmed = state.lit !== null && !isLit;
  const isTarget = state.target.id === id;
  const isGuess = wordOf(score) === "guess"; // drawn faint and dashed
  context.globalAlpha = (isDimmed ? 0.35 : 1) * (isGuess && !isLit && !isTarget ? 0.5 : 1);
  context.fillStyle = colourOf(id, Math.min(1, (opacity / 100) * (isLit ? 1.55 : 1)));
  if (!isOutline || isLit) context.fill(shape.path, "evenodd");
  if (isGuess) context.setLineDash([5 * px, 5 * px]);
  context.strokeStyle = isLit || isTarget ? "#fff" : "rgb(0 0 0 / 0.55)";
  context.lineWidth = (isLit || isTarget ? 5 : 3.5) * px;
  context.stroke(shape.path);
  context.strokeStyle = colourOf(id);
  context.lineWidth = (isLit || isTarget ? 3 : 1.8) * px;
  context.stroke(shape.path);
  context.setLineDash([]);
  context.globalAlpha = 1;
}

function drawDraft(context, px) {
  const { shape } = state.draft;
  if (!shape) return;
  const id = state.draft.target.id ?? 0;
  context.fillStyle = id ? colourOf(id, 0.5) : "rgb(255 255 255 / 0.45)";
  context.fill(shape.path, "evenodd");
  context.strokeStyle = "#000";
  context.lineWidth = 3 * px;
  context.stroke(shape.path);
  context.setLineDash([6 * px, 4 * px]);
  context.strokeStyle = "#fff";
  context.lineWidth = 2 * px;
  context.stroke(shape.path);
  context.setLineDash([]);
}

function drawTag(context, object, shape, px, tags) {
  const isLit = state.lit === object.id;
  if (state.lit !== null && !isLit) return;
  const text = isLit && object.label ? `${object.id} ${object.label}` : String(object.id);
  context.font = `600 ${12 * px}px system-ui, sans-serif`;
  const [wide, high] = [context.measureText(text).width + 10 * px, 18 * px];
  const { width, height } = state.session.media;
  const top = Math.max(0, Math.min(height - high, shape.peak[1] - high - 3 * px));
  let left = Math.max(0, Math.min(width - wide, shape.peak[0] - wide / 2));
  for (const other of tags) {
    // beside those that are there already
    if (Math.abs(other.top - top) < high && left < other.right && left + wide > other.left) left = other.right + 2 * px;
  }
  tags.push({ left, right: left + wide, top });
  context.fillStyle = "rgb(12 13 20 / 0.82)";
  context.beginPath();
  context.roundRect(left, top, wide, high, 5 * px);
  context.fill();
  context.fillStyle = colourOf(object.id);
  context.fillRect(left, top + high - 2.5 * px, wide, 2.5 * px);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + 5 * px, top + high / 2 - 0.5 * px);
}

function drawPrompts(context, px) {
  const known = state.objects.get(state.target.id);
  const shown = known && !state.hidden.has(known.id) ? known.prompts : [];
  for (const prompt of shown) if (prompt.frame === state.shown) drawPrompt(context, prompt, px, 1);
  for (const { prompt } of state.pending) if (prompt.frame === state.shown) drawPrompt(context, prompt, px, 0.6);
}

function drawPrompt(context, prompt, px, opacity) {
  context.globalAlpha = opacity;
  if (prompt.type === "box") {
    const [x1, y1, x2, y2] = prompt.box;
    drawBox(context, { x: x1, y: y1 }, { x: x2, y: y2 }, px);
  } else if (prompt.type === "point") {
    const { x, y, positive } = prompt;
    context.beginPath();
    context.arc(x, y, 7 * px, 0, 2 * Math.PI);
    context.fillStyle = positive ? "#0b7a3e" : "#b3261e";
    context.fill();
    context.strokeStyle = "#fff";
    context.lineWidth = 2 * px;
    context.stroke();
    context.beginPath();
    context.moveTo(x - 3.2 * px, y);
    context.lineTo(x + 3.2 * px, y);
    if (positive) {
      context.moveTo(x, y - 3.2 * px);
      context.lineTo(x, y + 3.2 * px);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
}

function drawBox(context, from, to, px) {
  for (const [colour, wide, dash] of [
    ["#000", 3.5, []],
    ["#fff", 1.8, [6 * px, 4 * px]],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = wide * px;
    context.setLineDash(dash);
    context.strokeRect(from.x, from.y, to.x - from.x, to.y - from.y);
  }
  context.setLineDash([]);
}

function drawCorners(context, px) {
  const rings = doing.rings ?? ringsShown();
  if (!rings) return;
  overlay.dataset.corners = rings.flat().length;
  context.beginPath();
  for (const ring of rings) {
    ring.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
  }
  if (doing.rings) {
    context.fillStyle = "rgb(255 255 255 / 0.3)";
    context.fill("evenodd");
  }
  for (const [colour, wide] of [
    ["#000", 3.5],
    ["#fff", 1.6],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = wide * px;
    context.stroke();
  }
  const marks = rings.flatMap((ring, r) => ring.map(([x, y], i) => ({ x, y, isAt: doing.at?.ring === r && doing.at.corner === i })));
  if (doing.ghost) marks.push({ x: doing.ghost[0], y: doing.ghost[1], isGhost: true });
  context.lineWidth = 1.5 * px;
  context.strokeStyle = "#000";
  for (const { x, y, isAt, isGhost } of marks) {
    const side = (isAt ? 11 : 8) * px;
    context.fillStyle = isAt ? "#ffd54a" : isGhost ? "rgb(255 255 255 / 0.6)" : "#fff";
    context.beginPath();
    if (isGhost) context.arc(x, y, side / 2, 0, 2 * Math.PI);
    else context.rect(x - side / 2, y - side / 2, side, side);
    context.fill();
    context.stroke();
  }
}

function drawDoing(context, px) {
  const { box, line, cursor, crosshair } = doing;
  if (box) drawBox(context, box.from, box.to, px);
  if (line) {
    context.strokeStyle = line.isAway ? "rgb(179 38 30 / 0.6)" : "rgb(255 255 255 / 0.6)";
    context.lineWidth = brushDiameter();
    context.beginPath();
    line.places.forEach(({ x, y }, i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (line.places.length === 1) context.lineTo(line.places[0].x, line.places[0].y);
    context.stroke();
  }
  const at = crosshair ?? cursor;
  if (at && state.tool === "brush") {
    for (const [colour, wide] of [
      ["#000", 3],
      ["#fff", 1.4],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = wide * px;
      context.beginPath();
      context.arc(at.x, at.y, brushDiameter() / 2, 0, 2 * Math.PI);
      context.stroke();
    }
  }
  if (crosshair) {
    const { width, height } = state.session.media;
    for (const [colour, wide] of [
      ["rgb(0 0 0 / 0.7)", 3],
      ["#fff", 1.2],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = wide * px;
      context.beginPath();
      context.moveTo(0, crosshair.y);
      context.lineTo(width, crosshair.y);
      context.moveTo(crosshair.x, 0);
      context.lineTo(crosshair.x, height);
      context.stroke();
    }
  }
}

function describe() {
  if (!state.session) return;
  const { name, media } = state.session;
  const here = listed()
    .filter((one) => one.rles[state.frame])
    .map((one) => `${one.id} ${nameOf(one)}`);
  const which = media.num_frames > 1 ? `, frame ${state.frame + 1} of ${media.num_frames}` : "";
  const what = here.length ? `objects here: ${here.join(", ")}` : "no objects here";
  overlay.setAttribute("aria-label", `${name}${which}, ${media.width} by ${media.height} pixels; ${what}`);
}

new ResizeObserver(fit).observe(stage);
on("session", () => {
  bitmap = null;
  fit();
});
on("session frame", () => {
  if (state.shown !== state.frame) load();
  redraw();
});
on("objects masks target lit draft pending tool view set", redraw);
on("session objects frame", describe);
on("tool", () => (overlay.dataset.tool = state.isPanning ? "pan" : state.tool));
