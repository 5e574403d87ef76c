/**
 * Nothing of a visitor's is lost: while the page is open, its session is kept alive and saved; and this browser holds
 * the newest objects, from which a session that the server has lost can be opened again or written as a file.
 */

import { Refused, json, openAddress, request, sessionPath, upload } from "./api.js";
import { decode } from "./rle.js";
import { on, state, tell } from "./state.js";

const MOST = 30; // sessions held
const LARGEST = 64 << 20; // bytes of a file that is held with its session
const SHORTEST_MS = 150;
const LONGEST_MS = 30_000;
const sources = new Map(); // how sessions of this tab were opened: {file, url, options}
let base = null;
let lost = () => {};

/** Say what to do when the server tells that the session is gone. */
export function whenGone(told) {
  lost = told;
}

// what this browser holds

function database() {
  base ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open("unipixel", 1);
    opening.onupgradeneeded = () => {
      for (const name of ["sessions", "sets"]) opening.result.createObjectStore(name, { keyPath: "id" });
      opening.result.createObjectStore("files");
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
  return base;
}

/** Do something with the "sessions", "sets" or "files" that this browser holds, and give what comes of it. */
export async function store(name, mode, act) {
  const found = (await database()).transaction(name, mode).objectStore(name);
  const asked = act(found);
  return new Promise((resolve, reject) => {
    found.transaction.oncomplete = () => resolve(asked.result);
    found.transaction.onabort = () => reject(found.transaction.error);
  });
}

const run = (mode, act) => store("sessions", mode, act);

/** What is held of all sessions, the newest first; nothing where the browser keeps nothing for pages. */
export async function listHeld() {
  try {
    return (await run("readonly", (store) => store.getAll())).sort((a, b) => b.when - a.when);
  } catch {
    return [];
  }
}

/** Hold nothing of a session any more. */
export async function letGo(id) {
  await run("readwrite", (store) => store.delete(id)).catch(() => {});
}

/** Remember how a session was opened: {file} or {url}, and {options}. */
export function remember(id, source) {
  sources.set(id, source);
}

async function hold() {
  const { session, objects, turns } = state;
  if (!session || (!objects.size && !turns.length)) return session && letGo(session.id);
  const { file, url, options } = sources.get(session.id) ?? {};
  const found = {
    id: session.id,
    name: session.name,
    media: session.media,
    when: Date.now(),
    source: options && { url, options, file: file?.size <= LARGEST ? file : null },
    objects: [...objects.values()],
    turns: turns.map(({ question, text }) => ({ question, text })),
  };
  try {
    found.source ??= (await run("readonly", (store) => store.get(session.id)))?.source ?? null;
    await run("readwrite", (store) => store.put(found));
    for (const old of (await listHeld()).slice(MOST)) await letGo(old.id);
  } catch {
    if (!found.source?.file) return;
    found.source.file = null; // there was no room for it
    await run("readwrite", (store) => store.put(found)).catch(() => {});
  }
}

let isQueued = false;
let holding = Promise.resolve();
function holdSoon() {
  if (isQueued) return;
  isQueued = true;
  queueMicrotask(() => {
    isQueued = false;
    holding = holding.then(hold);
  });
}

/** Wait until all that is known is held. */
export function held() {
  return holding;
}

/** Open a session anew from what is held of it. `pick` asks the visitor for the file where it is not held. */
export async function reopen(found, pick, told = () => {}, signal = new AbortController().signal) {
  const { media, source } = found;
  const options = source?.options ?? { track: "sampled", num_frames: media.num_frames };
  const file = source?.url ? null : (source?.file ?? (await pick()));
  if (!file && !source?.url) return null;
  const session = await (file ? upload(file, options, told, signal) : openAddress(source.url, options, signal));
  remember(session.id, { file, url: source?.url, options });
  const is = (clip) => JSON.stringify([clip.width, clip.height, clip.frame_indices]);
  try {
    if ((file && file.name !== found.name) || is(session.media) !== is(media))
      throw new Refused(`This is not the file that the objects belong to; choose the one called ${found.name}.`);
    for (const { id, label, rles, frame_scores } of found.objects) {
      const body = { label, rles, frame_scores };
      await json(sessionPath(session.id, "objects", id), { method: "PUT", body, signal });
    }
  } catch (error) {
    await request(sessionPath(session.id), { method: "DELETE" }).catch(() => {});
    throw error;
  }
  const opened = await json(sessionPath(session.id));
  await letGo(found.id);
  return opened;
}

/** What is held of a session as a COCO file, in the form in which the server writes it. */
export function toCoco({ name, media, objects }) {
  const { width, height, frame_indices } = media;
  const isVideo = frame_indices.length > 1;
  const video = isVideo ? { video_id: 1 } : {};
  const names = [...new Set(objects.map((one) => one.label || "object"))];
  const images = frame_indices.map((index, id) => {
    const file_name = isVideo ? `frame_${String(index).padStart(6, "0")}.png` : name;
    return { id, width, height, file_name, ...video, source: name, frame_index: index };
  });
  const annotations = objects.flatMap((one) =>
    one.rles.flatMap((rle, image_id) => {
      if (!rle) return [];
      const place = { image_id, ...video, category_id: names.indexOf(one.label || "object") + 1, track_id: one.id };
      return [{ ...place, segmentation: rle, ...measure(rle), iscrowd: 0, score: one.frame_scores[image_id] }];
    }),
  );
  annotations.forEach((one, i) => (one.id = i + 1));
  const categories = names.map((name, i) => ({ id: i + 1, name }));
  return { images, annotations, categories, ...(isVideo && { videos: [{ id: 1, name, width, height }] }) };
}

function measure(rle) {
  const [height, width] = rle.size;
  const bits = decode(rle);
  let [area, left, right, top, bottom] = [0, width, -1, height, -1];
  for (let at = bits.indexOf(1); at >= 0; at = bits.indexOf(1, at + 1)) {
    const [x, y] = [Math.floor(at / height), at % height];
    area += 1;
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  }
  return { area, bbox: [left, top, right - left + 1, bottom - top + 1] };
}

// what the server keeps

let timer = 0;

/** Tell the server that somebody is at the session, and hear whether all of it is saved. */
async function beat() {
  clearTimeout(timer);
  const { session, health } = state;
  if (!session || !health) return;
  let problem = "";
  try {
    const told = await json(sessionPath(session.id, "keepalive"), { method: "POST" });
    if (state.session !== session) return;
    session.isSaved = told.is_saved;
    problem = told.problem;
  } catch (error) {
    if (state.session !== session) return;
    if (error.code === "no_session" && !state.draft) return lost(error);
    session.isSaved = false;
    problem = error.message;
  }
  state.problem = problem;
  tell("saved");
  clearTimeout(timer);
  timer = setTimeout(beat, Math.max(SHORTEST_MS, Math.min(LONGEST_MS, (health.idle_s * 1000) / 3)));
}

const saved = document.getElementById("saved");
on("saved session health objects", () => {
  const { session, health, problem, objects, turns } = state;
  const isThere = Boolean(session && health && (objects.size || turns.length));
  const words = problem ? "Not saved" : !health?.can_save ? "In this browser" : session?.isSaved ? "Saved" : "";
  saved.textContent = isThere ? words : "";
  saved.classList.toggle("is-failed", isThere && Boolean(problem));
  saved.title = problem
    ? `${problem} This browser holds the newest objects.`
    : health?.can_save
      ? "Saved on the server after every change."
      : "The server keeps nothing beyond its end; this browser holds the newest objects.";
});
on("session health history", beat);
on("busy", () => !state.busy && beat());
on("objects turns", holdSoon);
addEventListener("visibilitychange", () => !document.hidden && beat());
addEventListener("online", beat);
