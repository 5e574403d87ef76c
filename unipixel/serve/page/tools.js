/** Pointer, finger and keyboard above the picture become points, boxes and strokes. */

import { discard, finish, paint } from "./draft.js";
import { prompt } from "./jobs.js";
import { announce, inform } from "./notices.js";
import { objectAt } from "./shapes.js";
import { doing, placeOf, redraw, shownScale, zoomBy } from "./stage.js";
import { choose, light, on, state, tell } from "./state.js";

const SMALLEST_BOX = 3; // CSS pixels
const STILL = 5; // CSS pixels that a pointer may move and still click
const STEP = 8; // CSS pixels that an arrow key moves the crosshair
const overlay = document.getElementById("overlay");
const stage = document.getElementById("stage");
let held = null; // the press that goes on

/** Take up a tool. */
export function useTool(name) {
  cancel();
  state.tool = name;
  light(null);
  tell("tool");
}

/** Let clicks and strokes take away, or add again. */
export function setNegative(isNegative) {
  state.isNegative = isNegative;
  tell("tool");
}

/** End what was begun and not finished. Whether there was something. */
export function cancel() {
  const was = doing.box || doing.line;
  Object.assign(doing, { box: null, line: null });
  held = null;
  redraw();
  return Boolean(was);
}

/** Apply what was painted. */
export function applyDraft() {
  if (!state.draft) return;
  if (!state.draft.shape && state.draft.target.id === null) {
    inform("Nothing is painted yet.");
    return discard();
  }
  const { target, prompt: mask } = finish();
  prompt([mask], target).catch(() => {});
}

/** Whether something painted has to be applied or discarded first; then the visitor is told so. */
function isBlocked() {
  const { draft } = state;
  const isSame =
    !draft || (state.tool === "brush" && draft.frame === state.shown && draft.target.id === state.target.id);
  if (!isSame) inform("Apply or discard what you have painted first.");
  return !isSame;
}

function point(place, isNegative) {
  if (isBlocked()) return;
  prompt([{ type: "point", ...place, positive: !isNegative, frame: state.shown }]).catch(() => {});
}

function hasBox(target) {
  const known = state.objects.get(target.id)?.prompts ?? [];
  const coming = state.pending.filter((one) => one.target === target).map((one) => one.prompt);
  return [...known, ...coming].some((one) => one.type === "box" && one.frame === state.shown);
}

function box(from, to) {
  const [x1, x2] = [from.x, to.x].sort((a, b) => a - b);
  const [y1, y2] = [from.y, to.y].sort((a, b) => a - b);
  if (Math.min(x2 - x1, y2 - y1) * shownScale() < SMALLEST_BOX) return announce("The box is too small.");
  if (isBlocked()) return;
  if (hasBox(state.target)) choose(null); // an object has one box on a frame; a further one is for another object
  prompt([{ type: "box", box: [x1, y1, x2, y2], frame: state.shown }]).catch(() => {});
}

function isNegativeNow(event) {
  return state.isNegative || event.shiftKey || event.altKey || event.button === 2;
}

function press(event) {
  if (event.button > 2 || event.button === 1 || held || state.shown === null) return;
  event.preventDefault(); // the crosshair is for those who come by keyboard
  document.activeElement?.blur();
  const place = placeOf(event);
  held = { place, x: event.clientX, y: event.clientY, isNegative: isNegativeNow(event), pointer: event.pointerId };
  overlay.setPointerCapture(event.pointerId);
  if (state.tool === "box") doing.box = { from: place, to: place };
  if (state.tool === "brush") {
    if (isBlocked()) return cancel();
    doing.line = { places: [place], isNegative: held.isNegative };
  }
  redraw();
}

function move(event) {
  const place = placeOf(event);
  doing.cursor = event.pointerType === "touch" && !held ? null : place;
  if (held?.pointer === event.pointerId) {
    if (doing.box) doing.box.to = place;
    if (doing.line) for (const one of event.getCoalescedEvents?.() ?? [event]) doing.line.places.push(placeOf(one));
    if (state.tool === "select" && event.pointerType === "mouse") stage.scrollBy(-event.movementX, -event.movementY);
  } else if (state.tool === "select") {
    light(objectAt(place)?.id ?? null);
  }
  redraw();
}

function lift(event) {
  if (held?.pointer !== event.pointerId) return;
  const { place, isNegative, x, y } = held;
  const isStill = Math.hypot(event.clientX - x, event.clientY - y) <= STILL;
  const { box: drawn, line } = doing;
  cancel();
  if (state.tool === "select" && isStill) choose(objectAt(place)?.id ?? null);
  if (state.tool === "point") point(place, isNegative);
  if (drawn) box(drawn.from, placeOf(event));
  if (line) paint(line.places, line.isNegative);
}

overlay.addEventListener("pointerdown", press);
overlay.addEventListener("pointermove", move);
overlay.addEventListener("pointerup", lift);
overlay.addEventListener("pointercancel", cancel);
overlay.addEventListener("contextmenu", (event) => event.preventDefault());
overlay.addEventListener("pointerleave", () => {
  doing.cursor = null;
  if (state.tool === "select") light(null);
  redraw();
});
stage.addEventListener(
  "wheel",
  (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), placeOf(event));
  },
  { passive: false },
);

// the crosshair

overlay.addEventListener("focus", () => {
  const { width, height } = state.session.media;
  doing.crosshair ??= { x: Math.floor(width / 2), y: Math.floor(height / 2) };
  redraw();
});
overlay.addEventListener("blur", () => {
  doing.crosshair = null;
  cancel();
});

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function moveCrosshair([dx, dy], isFar) {
  const { width, height } = state.session.media;
  const step = Math.max(1, Math.round((STEP * (isFar ? 6 : 1)) / shownScale()));
  const at = doing.crosshair;
  at.x = Math.max(0, Math.min(width - 1, at.x + dx * step));
  at.y = Math.max(0, Math.min(height - 1, at.y + dy * step));
  if (doing.box) doing.box.to = { ...at };
  if (doing.line) doing.line.places.push({ ...at });
  const under = objectAt(at);
  announce(`${at.x}, ${at.y}${under ? `, on object ${under.id}` : ""}`);
}

function enterCrosshair(isNegative) {
  const at = { ...doing.crosshair };
  if (state.tool === "select") return choose(objectAt(at)?.id ?? null);
  if (state.tool === "point") return point(at, isNegative);
  const { box: drawn, line } = doing;
  if (drawn || line) {
    cancel();
    if (drawn) box(drawn.from, at);
    else paint(line.places, line.isNegative);
  } else if (!isBlocked()) {
    if (state.tool === "box") doing.box = { from: at, to: at };
    else doing.line = { places: [at], isNegative };
    announce(`${state.tool === "box" ? "Box" : "Stroke"} begun at ${at.x}, ${at.y}. Enter ends it.`);
  }
}

overlay.addEventListener("keydown", (event) => {
  if (!doing.crosshair || state.shown === null || event.ctrlKey || event.metaKey) return;
  if (WAYS[event.key]) moveCrosshair(WAYS[event.key], event.shiftKey);
  else if (event.key === "Enter") enterCrosshair(state.isNegative || event.shiftKey || event.altKey);
  else return;
  event.preventDefault();
  event.stopPropagation();
  redraw();
});

// the tool bar

for (const button of document.querySelectorAll("[data-tool].tool")) {
  button.addEventListener("click", () => useTool(button.dataset.tool));
}
document.getElementById("polarity").addEventListener("click", () => setNegative(!state.isNegative));
document.getElementById("new-object").addEventListener("click", () => choose(null));
document.getElementById("zoom-in").addEventListener("click", () => zoomBy(1.5));
document.getElementById("zoom-fit").addEventListener("click", () => zoomBy(0));
document.getElementById("brush-size").addEventListener("input", (event) => {
  state.brushSize = event.target.valueAsNumber;
  redraw();
});
document.getElementById("draft-apply").addEventListener("click", applyDraft);
document.getElementById("draft-discard").addEventListener("click", discard);

on("session tool target", () => {
  for (const button of document.querySelectorAll("[data-tool].tool")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  }
  document.getElementById("polarity").setAttribute("aria-pressed", String(state.isNegative));
  document.getElementById("new-object").setAttribute("aria-pressed", String(state.target.id === null));
  document.getElementById("brush-size-label").hidden = state.tool !== "brush";
  document.getElementById("brush-size").value = state.brushSize;
});
on("draft", () => {
  const { draft } = state;
  document.getElementById("draft").hidden = !draft;
  if (!draft) return;
  const where = state.session.media.num_frames > 1 ? ` on frame ${draft.frame + 1}` : "";
  const count = draft.strokes.length;
  document.getElementById("draft-text").textContent = `${count} stroke${count > 1 ? "s" : ""}${where}`;
});
