/**
 * A mask that is being painted, or whose outline is being changed: strokes above what an object's mask is on one frame,
 * until they are applied.
 */

import { refill, remember } from "./outline.js";
import { decode, encode, stroke } from "./rle.js";
import { shapeOf } from "./shapes.js";
import { on, state, tell } from "./state.js";

let undone = null; // strokes that were taken back, for as long as nothing else is painted

/** Width of the brush in source pixels: of half the picture's shorter side, so many hundredths. */
export function brushDiameter() {
  const { width, height } = state.session.media;
  return Math.max(1, (Math.min(width, height) * state.brushSize) / 200);
}

function begin() {
  const { width, height } = state.session.media;
  if (!state.draft) {
    const rle = state.objects.get(state.target.id)?.rles[state.shown];
    const base = rle ? decode(rle) : new Uint8Array(width * height);
    const [session, target, frame] = [state.session.id, state.target, state.shown];
    state.draft = { session, target, frame, base, bits: base.slice(), strokes: [], shape: null };
  }
  undone = null;
}

/** Paint along places, or wipe. */
export function paint(places, isAway) {
  begin();
  add({ places, radius: brushDiameter() / 2, value: isAway ? 0 : 1 });
}

/** Let the mask's outline, of which these were the corners before, have others. */
export function reshape(before, rings) {
  begin();
  add({ before, rings });
}

function add(one) {
  state.draft.strokes.push(one);
  run(one);
  shaped();
}

function run({ before, rings, places, radius, value }) {
  const { width, height } = state.session.media;
  if (rings) return refill(state.draft.bits, height, width, before, rings);
  places.forEach((to, i) => stroke(state.draft.bits, height, width, places[Math.max(0, i - 1)], to, radius, value));
}

function shaped() {
  const { width, height } = state.session.media;
  state.draft.shape = shapeOf(state.draft.bits, height, width);
  tell("draft");
}

/** Take the last stroke back. */
export function undoStroke() {
  const { draft } = state;
  const others = undone?.draft === draft ? undone.strokes : [];
  undone = { draft, strokes: [...others, draft.strokes.pop()] };
  if (!draft.strokes.length) {
    draft.bits = draft.base.slice();
    state.draft = null;
    return tell("draft");
  }
  draft.bits = draft.base.slice();
  draft.strokes.forEach(run);
  shaped();
}

/** Whether a stroke was taken back that can be painted again where it was. */
export function canRedoStroke() {
  if (!undone?.strokes.length || undone.draft.session !== state.session?.id) return false;
  return !state.draft || state.draft === undone.draft;
}

/** Paint the stroke again that was taken back last. */
export function redoStroke() {
  state.draft ??= undone.draft;
  add(undone.strokes.pop());
}

/** Forget what was painted; it can be painted again. */
export function discard() {
  undone = { draft: state.draft, strokes: state.draft.strokes.splice(0).reverse() };
  state.draft.bits = state.draft.base.slice();
  state.draft = null;
  tell("draft");
}

/** What was painted as a prompt, and the object that it is for; nothing is painted any more. */
export function finish() {
  const { target, frame, bits, strokes } = state.draft;
  const { width, height } = state.session.media;
  const prompt = { type: "mask", rle: encode(bits, height, width), frame };
  const { rings } = strokes.at(-1);
  if (rings) remember(prompt.rle, rings);
  undone = null;
  state.draft = null;
  tell("draft");
  return { target, prompt };
}

on("history", () => {
  if (!state.draft) undone = null;
});
