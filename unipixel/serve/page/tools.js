/** Pointer, finger and keyboard above the picture become points, boxes, strokes and corners of an outline. */

import * as corners from "./corners.js";
import { discard, finish, paint } from "./draft.js";
import { prompt } from "./jobs.js";
import { announce, inform } from "./notices.js";
import { isAt, objectAt } from "./shapes.js";
import { doing, placeOf, redraw, shownScale, zoomBy } from "./stage.js";
import { changeView, choose, light, on, state, tell } from "./state.js";

const SMALLEST_BOX = 3; // CSS pixels
const STILL = 5; // CSS pixels that a pointer may move and still click
const STEP = 8; // CSS pixels that an arrow key moves the crosshair
const REACH = 8; // CSS pixels from a corner at which it is taken hold of
const REACH_OF_FINGER = 22;
const overlay = document.getElementById("overlay");
const stage = document.getElementById("stage");
let held = null; // the press that goes on
let hasPanned = false;

/** Take up a tool. */
export function useTool(name) {
  cancel();
  state.tool = name;
  light(null);
  tell("tool");
  if (name === "polygon" && state.target.id === null && state.objects.size)
    inform("Select an object; its outline can then be changed.");
}

/** Let clicks and strokes start a "new" object, "add" to the selected one, or take "away" from it. */
export function useMode(mode) {
  state.mode = mode;
  if (mode === "new") choose(null);
  tell("tool");
}

/** Move the view with the pointer from now on. */
export function beginPan() {
  if (state.isPanning) return;
  state.isPanning = true;
  hasPanned = false;
  tell("tool");
}

/** End that. Whether the view was moved. */
export function endPan() {
  if (!state.isPanning) return true;
  state.isPanning = false;
  tell("tool");
  return hasPanned;
}

/** End what was begun and not finished. Whether there was something. */
export function cancel() {
  const was = doing.box || doing.line || doing.rings;
  Object.assign(doing, { box: null, line: null, rings: null });
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
    !draft ||
    (["brush", "polygon"].includes(state.tool) && draft.frame === state.shown && draft.target.id === state.target.id);
  if (!isSame) inform("Apply or discard what you have painted first.");
  return !isSame;
}

function hasTarget() {
  return state.target.id !== null || state.pending.some((one) => one.target === state.target);
}

/** Whether a prompt that adds or takes away has an object for it; else the visitor is told so. */
function isAddressed(mode) {
  if (mode === "away" && !hasTarget()) inform("Select the object that this is to be taken away from first.");
  return mode !== "away" || hasTarget();
}

function chooseAt(place) {
  const id = objectAt(place)?.id ?? null;
  if (state.tool === "select" || !state.draft) return choose(id);
  if (id !== null && id !== state.target.id) inform("Apply or discard what you have changed first.");
}

function point(place, mode) {
  if (isBlocked() || !isAddressed(mode)) return;
  const selected = state.objects.get(state.target.id);
  // beside the selected object begins another one, on it the click belongs to it
  if (mode === "new" && !(selected && isAt(selected, place))) choose(null);
  prompt([{ type: "point", ...place, positive: mode !== "away", frame: state.shown }]).catch(() => {});
}

function hasBox(target) {
  const known = state.objects.get(target.id)?.prompts ?? [];
  const coming = state.pending.filter((one) => one.target === target).map((one) => one.prompt);
  return [...known, ...coming].some((one) => one.type === "box" && one.frame === state.shown);
}

function box(from, to, mode) {
  const [x1, x2] = [from.x, to.x].sort((a, b) => a - b);
  const [y1, y2] = [from.y, to.y].sort((a, b) => a - b);
  if (Math.min(x2 - x1, y2 - y1) * shownScale() < SMALLEST_BOX) return announce("The box is too small.");
  if (isBlocked()) return;
  if (mode === "away") return inform("A box cannot take away; use points or the brush.");
  if (mode === "new" || hasBox(state.target)) choose(null); // an object has one box on a frame
  prompt([{ type: "box", box: [x1, y1, x2, y2], frame: state.shown }]).catch(() => {});
}

function modeOf(event) {
  if (event.altKey || event.button === 2) return "away";
  return event.shiftKey ? "add" : state.mode;
}

function press(event) {
  if (event.button > 2 || held || state.shown === null) return;
  event.preventDefault(); // the crosshair is for those who come by keyboard
  document.activeElement?.blur();
  const place = placeOf(event);
  const isPan = state.isPanning || event.button === 1;
  held = { place, x: event.clientX, y: event.clientY, mode: modeOf(event), pointer: event.pointerId, isPan };
  overlay.setPointerCapture(event.pointerId);
  if (isPan) return;
  if (state.tool === "box") doing.box = { from: place, to: place };
  if (state.tool === "brush") {
    if (isBlocked()) return cancel();
    if (!isAddressed(held.mode)) return cancel();
    doing.line = { places: [place], isAway: held.mode === "away" };
  }
  if (state.tool === "polygon" && !isBlocked()) {
    if (held.mode !== "away") corners.hold(place, reachOf(event));
    else if (corners.removeCorner(place, reachOf(event))) return cancel();
  }
  redraw();
}

function reachOf({ pointerType }) {
  return pointerType === "touch" ? REACH_OF_FINGER : REACH;
}

function move(event) {
  const place = placeOf(event);
  doing.cursor = event.pointerType === "touch" && !held ? null : place;
  if (state.tool === "polygon") corners.point(place, reachOf(event));
  if (held?.pointer === event.pointerId) {
    if (doing.rings && Math.hypot(event.clientX - held.x, event.clientY - held.y) > 1) corners.move(place);
    if (doing.box) doing.box.to = place;
    if (doing.line) for (const one of event.getCoalescedEvents?.() ?? [event]) doing.line.places.push(placeOf(one));
    if (held.isPan) hasPanned = true;
    if (held.isPan || (state.tool === "select" && event.pointerType === "mouse"))
      stage.scrollBy(-event.movementX, -event.movementY);
  } else if (state.tool === "select") {
    light(objectAt(place)?.id ?? null);
  }
  redraw();
}

function lift(event) {
  if (held?.pointer !== event.pointerId) return;
  const { place, mode, x, y, isPan } = held;
  const isStill = Math.hypot(event.clientX - x, event.clientY - y) <= STILL;
  const { box: drawn, line, rings } = doing;
  if (rings) corners.drop();
  cancel();
  if (isPan || rings) return;
  if (isStill && ["select", "polygon"].includes(state.tool)) chooseAt(place);
  if (state.tool === "point") point(place, mode);
  if (drawn) box(drawn.from, placeOf(event), mode);
  if (line) paint(line.places, line.isAway);
}

overlay.addEventListener("pointerdown", press);
overlay.addEventListener("pointermove", move);
overlay.addEventListener("pointerup", lift);
overlay.addEventListener("pointercancel", cancel);
overlay.addEventListener("contextmenu", (event) => event.preventDefault());
overlay.addEventListener("pointerleave", () => {
  doing.cursor = doing.ghost = null;
  if (state.tool === "select") light(null);
  redraw();
});
stage.addEventListener(
  "wheel",
  (event) => {
    if (event.shiftKey) return; // it moves the view sideways
    event.preventDefault();
    const pixels = event.deltaMode ? event.deltaY * 20 : event.deltaY; // some tell lines
    zoomBy(Math.exp(-pixels / 300), placeOf(event));
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
  const step = Math.max(1, Math.round(((doing.rings ? 1 : STEP) * (isFar ? 6 : 1)) / shownScale()));
  const at = doing.crosshair;
  at.x = Math.max(0, Math.min(width - 1, at.x + dx * step));
  at.y = Math.max(0, Math.min(height - 1, at.y + dy * step));
  if (doing.box) doing.box.to = { ...at };
  if (doing.rings) corners.move(at);
  if (doing.line) doing.line.places.push({ ...at });
  const under = objectAt(at);
  announce(`${at.x}, ${at.y}${under ? `, on object ${under.id}` : ""}`);
}

function enterCrosshair(mode) {
  const at = { ...doing.crosshair };
  if (state.tool === "select") return chooseAt(at);
  if (state.tool === "point") return point(at, mode);
  if (state.tool === "polygon") return enterCorner(at, mode);
  const { box: drawn, line } = doing;
  if (drawn || line) {
    cancel();
    if (drawn) box(drawn.from, at, mode);
    else paint(line.places, line.isAway);
  } else if (!isBlocked() && (state.tool === "box" || isAddressed(mode))) {
    if (state.tool === "box") doing.box = { from: at, to: at };
    else doing.line = { places: [at], isAway: mode === "away" };
    announce(`${state.tool === "box" ? "Box" : "Stroke"} begun at ${at.x}, ${at.y}. Enter ends it.`);
  }
}

function enterCorner(at, mode) {
  if (isBlocked()) return;
  if (doing.rings) return corners.drop();
  if (mode === "away") return void corners.removeCorner(at, REACH);
  if (!corners.hold(at, REACH)) return chooseAt(at);
  announce("The corner is held: arrow keys move it, Enter lets go of it.");
}

overlay.addEventListener("keydown", (event) => {
  if (!doing.crosshair || state.shown === null || event.ctrlKey || event.metaKey) return;
  if (WAYS[event.key]) moveCrosshair(WAYS[event.key], event.shiftKey);
  else if (event.key === "Enter") enterCrosshair(modeOf(event));
  else return;
  event.preventDefault();
  event.stopPropagation();
  redraw();
});

// the tool bar

for (const button of document.querySelectorAll("[data-tool].tool")) {
  button.addEventListener("click", () => useTool(button.dataset.tool));
}
for (const button of document.querySelectorAll("[data-mode]")) {
  button.addEventListener("click", () => useMode(button.dataset.mode));
}
document.getElementById("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
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
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
  }
  document.getElementById("brush-size-label").hidden = state.tool !== "brush";
  document.getElementById("brush-size").value = state.brushSize;
});

// how masks are drawn

const opacity = document.getElementById("opacity");
const switches = { "outlines-only": "isOutline", "hide-all": "isHidden" };
opacity.addEventListener("input", () => changeView({ opacity: opacity.valueAsNumber }));
for (const [id, name] of Object.entries(switches)) {
  document.getElementById(id).addEventListener("change", (event) => changeView({ [name]: event.target.checked }));
}
function showView() {
  opacity.value = state.view.opacity;
  for (const [id, name] of Object.entries(switches)) document.getElementById(id).checked = state.view[name];
  document.getElementById("view-open").classList.toggle("is-off", state.view.isHidden);
}
showView();
on("view", showView);

on("draft", () => {
  const { draft } = state;
  document.getElementById("draft").hidden = !draft;
  if (!draft) return;
  const where = state.session.media.num_frames > 1 ? ` on frame ${draft.frame + 1}` : "";
  const count = draft.strokes.length;
  const what = draft.strokes.some((one) => one.rings) ? "change" : "stroke";
  document.getElementById("draft-text").textContent = `${count} ${what}${count > 1 ? "s" : ""}${where}`;
});
