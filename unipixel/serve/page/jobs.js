/** Work on the server, one piece after another: prompts, questions, tracking, taking back; and stopping it. */

import { Refused, json, request, sessionPath, work } from "./api.js";
import { canRedoStroke, redoStroke, undoStroke } from "./draft.js";
import { announce, complain, inform, offer } from "./notices.js";
import { forget, learn, learnMasks, listed, nameOf, noteChange, state, take, tell } from "./state.js";

let queue = Promise.resolve();
let round = 0; // raised to drop what waits
let going = null; // what stops listening to the work under way
let lost = () => {};

/** Say what to do when the session is gone. */
export function whenLost(told) {
  lost = told;
}

/** Forget all work, because another session is opened; what is under way ends when nobody listens. */
export function leave() {
  round += 1;
  going?.abort();
  Object.assign(state, { pending: [], busy: null });
  tell("pending", "busy");
}

function enqueue(label, run) {
  const { id } = state.session;
  const mine = round;
  const done = queue.then(async () => {
    if (mine !== round) throw new DOMException("dropped", "AbortError");
    going = new AbortController();
    state.busy = { label, done: 0, total: 0, frame: null };
    tell("busy");
    try {
      return await run(id, going.signal);
    } finally {
      if (mine === round || state.session?.id === id) {
        state.busy = null;
        tell("busy");
      }
    }
  });
  queue = done.catch((error) => failed(error, id));
  return done;
}

async function failed(error, id) {
  if (error.name === "AbortError" || state.session?.id !== id) return;
  round += 1; // what was asked for after this counted on it
  if (error.code === "stopped") inform("Stopped. What was tracked so far is kept.");
  else if (error.code !== "no_session") complain(error);
  if (error.code === "no_session") return lost(error);
  if (error.code !== "unreachable") await refresh();
}

/** Take over what the server knows. */
export async function refresh() {
  const id = state.session?.id;
  if (!id) return;
  try {
    const told = await json(sessionPath(id));
    if (state.session?.id === id) take(told);
  } catch (error) {
    if (state.session?.id === id && error.code === "no_session") lost(error);
  }
}

/** Listen to work until its last event, of which the data are given back. */
async function follow(path, body, signal, heard = () => {}) {
  const tracked = new Set();
  let last = null;
  for await (const { name, data } of work(path, body, signal)) {
    if (signal.aborted) throw new DOMException("left", "AbortError");
    last = data;
    if (name === "text") heard(data.text);
    if (name !== "masks") continue;
    const which = `${data.frame} ${data.objects.map((one) => one.id)}`;
    if (tracked.has(which)) tracked.clear(); // another round over the clip
    tracked.add(which);
    const total = state.session.media.num_frames;
    Object.assign(state.busy, { label: "Tracking", done: Math.min(tracked.size, total), total, frame: data.frame });
    learnMasks(data.frame, data.objects);
    tell("busy");
  }
  return last;
}

/** Give prompts to an object, or make a new one of them. */
export function prompt(prompts, target = state.target) {
  const { label } = state;
  const waiting = prompts.map((one) => ({ target, prompt: one }));
  state.pending.push(...waiting);
  tell("pending");
  const done = enqueue("Segmenting", async (id, signal) => {
    const isNew = target.id === null;
    const path = isNew ? sessionPath(id, "objects") : sessionPath(id, "objects", target.id, "prompts");
    const body = isNew && label ? { prompts, label } : { prompts };
    const { objects } = await follow(path, body, signal);
    if (isNew && objects.length) target.id = objects[0].id;
    learn(objects);
    noteChange();
    tell("target");
    tellFound(objects);
  });
  done
    .catch(() => {})
    .finally(() => {
      state.pending = state.pending.filter((one) => !waiting.includes(one));
      tell("pending");
    });
  return done;
}

function tellFound(objects) {
  const { num_frames } = state.session.media;
  const told = objects.map((one) => {
    const count = one.rles.filter(Boolean).length;
    const where =
      num_frames > 1 ? `visible on ${count} of ${num_frames} frames` : count ? "has a mask" : "is not there";
    return `Object ${one.id}, ${nameOf(one)}, ${where}.`;
  });
  announce(told.join(" "));
}

/** Ask a question; `each`: for each thing in it by itself. */
export function ask(text, each = false) {
  const turn = { question: text, text: "", isWriting: true };
  state.turns.push(turn);
  tell("turns");
  const done = enqueue("Thinking", async (id, signal) => {
    const answer = await follow(sessionPath(id, "ask"), { text, each: each || null }, signal, (words) => {
      turn.text += words;
      state.busy.label = "Answering";
      tell("turns", "busy");
    });
    turn.text = answer.text;
    if (answer.finish_reason === "length") turn.note = "The answer was cut off at its longest.";
    if (answer.finish_reason === "loop") turn.note = "The answer repeated itself and was stopped.";
    if (answer.objects.length) noteChange();
    // an answer tells nothing of the prompts of objects that were known before
    learn(answer.objects.map((one) => ({ ...one, prompts: state.objects.get(one.id)?.prompts ?? one.prompts })));
  });
  const ended = done.catch((error) => {
    turn.note = error.code === "stopped" || error.name === "AbortError" ? "Stopped." : error.message;
    throw error;
  });
  return ended.finally(() => {
    turn.isWriting = false;
    tell("turns");
  });
}

/** Track objects again: all of them, or one, from everything known or from one frame that is to count. */
export function track(id = null, start = null) {
  const body = { objects: id === null ? null : [id], start };
  return enqueue("Tracking", async (session, signal) => {
    const { objects } = await follow(sessionPath(session, "track"), body, signal);
    learn(objects);
    noteChange();
    tellFound(objects);
  });
}

/** Whether there is something to undo. */
export function canUndo() {
  return Boolean(state.draft) || state.session.canUndo || hasPrompts(state.target.id) || state.pending.length > 0;
}

/** Whether something was undone that can be done again. */
export function canRedo() {
  return canRedoStroke() || (state.session.canRedo && !state.draft);
}

function hasPrompts(id) {
  return Boolean(state.objects.get(id)?.prompts.length);
}

/** Undo the last stroke, or else the last change of the objects, whatever it was. */
export async function undo() {
  if (state.draft) return undoStroke();
  await enqueue("Undoing", async (session, signal) => {
    if (state.session.canUndo) return exchange(session, "undo", signal);
    // a session that the server has restored knows no earlier changes, but still the prompts of the selected object
    const { id } = state.target;
    if (!hasPrompts(id)) return;
    const { objects } = await json(sessionPath(session, "objects", id, "prompts", -1), { method: "DELETE", signal });
    if (objects.length) learn(objects);
    else forget(id);
    noteChange();
    announce(objects.length ? `The last prompt of object ${id} was taken back.` : `Object ${id} was removed.`);
  });
}

/** Do again what was undone last. */
export async function redo() {
  if (canRedoStroke()) return redoStroke();
  if (state.draft) return;
  // what is yet to be undone can be redone as well
  await enqueue("Redoing", async (id, signal) => state.session.canRedo && exchange(id, "redo", signal));
}

async function exchange(session, verb, signal) {
  const told = await json(sessionPath(session, verb), { method: "POST", signal });
  if (state.session?.id !== session) return;
  take(told);
  const there = listed().map((one) => `${one.id} ${nameOf(one)}`);
  announce(`${verb === "undo" ? "Undone" : "Redone"}. Objects: ${there.join(", ") || "none"}.`);
}

/** Stop what the server does, and drop what waits. */
export async function stop() {
  round += 1;
  const { id } = state.session;
  try {
    const { stopped } = await json(sessionPath(id, "stop"), { method: "POST" });
    if (!stopped) going?.abort();
  } catch (error) {
    going?.abort();
    complain(error);
  }
}

/** Give an object another name; possible while the server works. */
export async function rename(id, label) {
  const renamed = await json(sessionPath(state.session.id, "objects", id), { method: "PATCH", body: { label } });
  const known = state.objects.get(id);
  if (known) known.label = renamed.label;
  noteChange();
  tell("objects");
}

/** Remove an object; possible while the server works. */
export async function remove(id) {
  try {
    await request(sessionPath(state.session.id, "objects", id), { method: "DELETE" });
  } catch (error) {
    if (!(error instanceof Refused) || error.code !== "no_object") throw error;
  }
  const name = nameOf(state.objects.get(id) ?? {});
  forget(id);
  noteChange();
  const { id: session } = state.session;
  offer(`Object ${id}, ${name}, is deleted.`, "Undo", () => {
    if (state.session?.id === session && !state.objects.has(id)) undo().catch(() => {});
  });
}
