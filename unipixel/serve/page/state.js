/** What the page knows. Whoever changes something tells its name, and whoever shows it has asked to hear of that. */

export const state = {
  /** What /health says. */
  health: null,
  /** The session that is open: {id, name, media, isSaved, canUndo, canRedo}. */
  session: null,
  /** Objects by id, as the API gives them. */
  objects: new Map(),
  /** Ids of objects that are not drawn, and of those that are gone. */
  hidden: new Set(),
  removed: new Set(),
  /** The object that prompts go to; its id is null until the first prompt has made it. */
  target: { id: null },
  /** Id of the object that is pointed at in the list or the chat. */
  lit: null,
  /** The frame that is wanted, and the one of which the picture is there; masks and prompts belong to that one. */
  frame: 0,
  shown: null,
  /** "select", "point", "box", "brush" or "polygon". */
  tool: "point",
  /** What a click does without a key held down: start a "new" object beside the selected one, "add", take "away". */
  mode: "new",
  /** Whether the pointer moves the view, for as long as a key is held down. */
  isPanning: false,
  /** How masks are drawn, and which: opacity in hundredths. */
  view: { opacity: 40, isOutline: false, isHidden: false, isUnsureOnly: false, ...remembered("unipixel.view") },
  /** From 1 to 100, see draft.js. */
  brushSize: 10,
  /** Prompts that are on their way: {target, prompt}. */
  pending: [],
  /** What the server works on: {label, done, total, frame}. */
  busy: null,
  /** Painted, but not applied yet: see draft.js. */
  draft: null,
  /** What was asked and answered: {question, text, note, isWriting}. */
  turns: [],
  zoom: 1,
  /** What new objects are called: the class that was chosen; null: nothing. */
  label: null,
  /** Whether the picture is one of a set, and the classes of that. */
  isInSet: false,
  classes: [],
  /** Why the server has not saved what was changed last; empty if it has. */
  problem: "",
};

const listeners = new Map();

function remembered(name) {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "{}");
  } catch {
    return {}; // storage is switched off
  }
}

/** Change how masks are drawn; opacity and outlines are remembered by the browser. */
export function changeView(changes) {
  Object.assign(state.view, changes);
  const { opacity, isOutline } = state.view;
  try {
    localStorage.setItem("unipixel.view", JSON.stringify({ opacity, isOutline }));
  } catch {
    // it then lasts until the page is left
  }
  tell("view");
}

const SURE = 0.6;
const GUESSED = 0.3;

/** How sure the model is of an object, in a word: "sure", "unsure" or "guess"; empty where it is not there. */
export function wordOf(score) {
  if (typeof score !== "number") return "";
  return score >= SURE ? "sure" : score >= GUESSED ? "unsure" : "guess";
}

/** Whether an object is drawn and listed under what was chosen to be seen. */
export function isListed(object) {
  return !state.view.isUnsureOnly || ["unsure", "guess"].includes(wordOf(object.score));
}

/** Call `heard` whenever one of the things named (separated by spaces) has changed. */
export function on(names, heard) {
  for (const name of names.split(" ")) {
    if (!listeners.has(name)) listeners.set(name, []);
    listeners.get(name).push(heard);
  }
}

/** Say that things have changed. */
export function tell(...names) {
  const heard = new Set(names.flatMap((name) => listeners.get(name) ?? []));
  for (const one of heard) one();
}

/** How an object is called where there is room for a word. */
export function nameOf(object) {
  return object.label || "unnamed";
}

/** Objects in the order of their ids. */
export function listed() {
  return [...state.objects.values()].sort((a, b) => a.id - b.id);
}

/** Make an object the one that prompts go to; null: the next prompt starts a new one. */
export function choose(id) {
  state.target = { id };
  tell("target");
}

/** Point at an object, or, with null, at none. */
export function light(id) {
  if (state.lit === id) return;
  state.lit = id;
  tell("lit");
}

/** Show or hide an object; remembered for as long as the tab is open. */
export function show(id, isShown) {
  if (isShown) state.hidden.delete(id);
  else state.hidden.add(id);
  sessionStorage.setItem(`unipixel.hidden.${state.session.id}`, JSON.stringify([...state.hidden]));
  tell("objects");
}

/** Take over objects of a response. */
export function learn(objects) {
  for (const one of objects) {
    state.objects.set(one.id, one);
    state.removed.delete(one.id);
  }
  tell("objects");
}

/** Take over masks of one frame while objects are tracked. */
export function learnMasks(frame, masks) {
  for (const { id, rle, score } of masks) {
    if (state.removed.has(id)) continue; // it was on its way when the object was removed
    let object = state.objects.get(id);
    if (!object) {
      const length = state.session.media.num_frames;
      object = {
        id,
        label: "",
        prompts: [],
        score: null,
        rles: Array(length).fill(null),
        frame_scores: Array(length).fill(0),
      };
      state.objects.set(id, object);
    }
    object.rles[frame] = rle;
    object.frame_scores[frame] = score;
  }
  tell("masks");
}

/** Note that the objects have changed, which can be undone, and nothing redone any more. */
export function noteChange() {
  Object.assign(state.session, { canUndo: true, canRedo: false });
  tell("history");
}

/** Forget an object. */
export function forget(id) {
  state.objects.delete(id);
  state.hidden.delete(id);
  state.removed.add(id);
  if (state.lit === id) state.lit = null;
  if (state.target.id === id) state.target = { id: null };
  tell("objects", "target", "lit");
}

/** Take over a session as the server tells it; what it told before is replaced. */
export function take(told) {
  const isOther = state.session?.id !== told.id;
  const session = { id: told.id, name: told.name, media: told.media };
  state.session = Object.assign(isOther ? session : state.session, {
    isSaved: told.is_saved,
    canUndo: told.can_undo,
    canRedo: told.can_redo,
  });
  state.objects = new Map(told.objects.map((one) => [one.id, one]));
  for (const id of state.objects.keys()) state.removed.delete(id);
  if (isOther) {
    const hidden = JSON.parse(sessionStorage.getItem(`unipixel.hidden.${told.id}`) ?? "[]");
    Object.assign(state, {
      frame: 0,
      shown: null,
      lit: null,
      draft: null,
      pending: [],
      zoom: 1,
      hidden: new Set(hidden),
      removed: new Set(),
      mode: "new",
      problem: "",
    });
    state.turns = told.turns
      .filter((turn) => turn.question || turn.text)
      .map(({ question, text }) => ({ question, text }));
    state.target = { id: null };
    tell("session", "turns", "draft", "tool");
  }
  if (state.target.id !== null && !state.objects.has(state.target.id)) state.target = { id: null };
  tell("objects", "target", "frame", "history");
}
