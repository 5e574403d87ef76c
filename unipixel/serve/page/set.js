/**
 * Many pictures: a set is a list of files, each with the session in which it is worked on. The list is held by this
 * browser, and so are the files; the sessions are saved by the server. A picture becomes a session when it is first gone
 * to. The set of the server's folder is the server's, so that any browser goes on with it: what is done here is told, and
 * what others have done is heard, whenever something changes and at every step to another picture.
 */

import { json, openAddress, request, sessionPath, upload } from "./api.js";
import { colourOfClass } from "./colours.js";
import { ask, rename } from "./jobs.js";
import { listHeld, reopen, store } from "./keeping.js";
import { complain, deliver, fileNameOf, inform } from "./notices.js";
import { on, state, tell } from "./state.js";

const MEDIA = /\.(png|jpe?g|webp|bmp|gif|tiff?|avif|heic|mp4|mov|webm|mkv|avi)$/i;
const SIDE = 72; // of a thumbnail
const MOST_DRAWN = 2; // thumbnails at a time, so that the picture itself does not wait for them
const OPTIONS = { track: "sampled" };
const byId = (id) => document.getElementById(id);
const bar = byId("set");
const strip = byId("set-strip");

/**
 * {id, name, when, classes, shares, isFolder, items: [{name, session, state}]}; a state is "new", "work", "done" or
 * "broken", shares are those of train, val and test in hundredths, none of a set that is not divided.
 */
let set = null;
let at = -1;
let asking = null; // what ends the question to all
let opened = async () => {};

/** Say how a session is opened: called with what gives it, and where it came from. */
export function whenMoved(told) {
  opened = told;
}

const fileOf = (place) => store("files", "readonly", (files) => files.get(`${set.id}/${place}`));
/** Where a picture comes from: its {file}, or its {url}. */
const sourceOf = async (place) =>
  set.isFolder ? { url: `folder:${set.items[place].name}`, options: OPTIONS } : { file: await fileOf(place), options: OPTIONS };
const hold = (one) => store("sets", "readwrite", (sets) => sets.put({ ...one, when: Date.now() })).catch(complain);
/** Hold the set as it is now; that of the folder is also told to the server, in its own time. */
function keep() {
  share();
  return hold(set);
}

/** All sets, the newest first. */
export async function listSets() {
  return (await store("sets", "readonly", (sets) => sets.getAll()).catch(() => [])).sort((a, b) => b.when - a.when);
}

/** Forget a set; the sessions of its pictures stay. */
export async function forgetSet(id) {
  await store("sets", "readwrite", (sets) => sets.delete(id));
  await store("files", "readwrite", (files) => files.delete(IDBKeyRange.bound(`${id}/`, `${id}/~`)));
}

const isOpen = ({ state: one }) => one === "new" || one === "work";

/** How far a set is, in words; pictures that cannot be read count for nothing. */
export function progressOf({ items }) {
  const usable = items.filter((one) => one.state !== "broken");
  return `${usable.filter((one) => one.state === "done").length} of ${usable.length} done`;
}

/** Make a set of files and go to its first picture. */
export async function openFiles(files) {
  const usable = files.filter((file) => MEDIA.test(file.name) || /^(image|video)\//.test(file.type));
  const others = files.length - usable.length;
  if (!usable.length) return complain("None of these files is a picture or a video.");
  if (state.draft) return inform("Apply or discard what you have painted first; the files were not opened.");
  const path = usable[0].webkitRelativePath;
  const id = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
  const items = usable.map((file) => ({ name: file.name, session: null, state: "new" }));
  set = { id, name: path ? path.split("/")[0] : usable[0].name, when: Date.now(), classes: [], items };
  try {
    for (const [i, file] of usable.entries()) {
      await store("files", "readwrite", (held) => held.put(file, `${id}/${i}`));
    }
  } catch {
    set = null;
    return complain("This browser has no room for these files; open fewer at a time.");
  }
  await keep();
  at = -1;
  await go(0);
  if (others) inform(`${others} file${others > 1 ? "s are" : " is"} neither a picture nor a video, and left out.`);
}

// the set of the server's folder

const write = ({ session, state: one }) => JSON.stringify({ session: one === "new" ? "" : (session ?? ""), state: one });
const UNTOUCHED = write({ state: "new" });
/** What the server is known to know of a set: the number of the change heard of last, and its parts as written. */
const NOTHING = { revision: 0, classes: "[]", shares: "[]", items: {} };
let sharing = Promise.resolve();

/** The set of the server's folder: files that have come since it was last open are new. */
export async function readFolder() {
  const { id: folder, name, files, left_out: others, progress } = await json("v1/folder");
  const id = `folder-${folder}`;
  const before = (await listSets()).find((one) => one.id === id);
  const known = new Map(before?.items.map((one) => [one.name, one]));
  const items = files.map((one) => known.get(one) ?? { name: one, session: null, state: "new" });
  const there = new Set(files);
  items.push(...[...known.values()].filter((one) => one.session && one.state !== "new" && !there.has(one.name)));
  const found = { classes: [], when: Date.now(), heard: structuredClone(NOTHING), ...before, id, name, isFolder: true, items };
  hear(found, progress);
  return { others, found };
}

const listChanged = ({ items, heard }) => items.filter((one) => write(one) !== (heard.items[one.name] ?? UNTOUCHED));

/** Take over what the server tells; what has changed here and was not told yet stays. */
function hear(mine, { revision, classes, shares, items }) {
  if (revision < mine.heard.revision) mine.heard = structuredClone(NOTHING); // it has forgotten all, and is told anew
  const { heard } = mine;
  const changed = new Set(listChanged(mine).map((one) => one.name));
  if (JSON.stringify(mine.classes) === heard.classes) mine.classes = classes;
  if (JSON.stringify(mine.shares ?? []) === heard.shares) mine.shares = shares.length ? shares : null;
  Object.assign(heard, { revision, classes: JSON.stringify(classes), shares: JSON.stringify(shares) });
  for (const [name, item] of Object.entries(items)) heard.items[name] = JSON.stringify(item);
  for (const one of mine.items) {
    if (!(one.name in items) || changed.has(one.name)) continue;
    const { session, state: now } = items[one.name];
    Object.assign(one, { state: now, session: session || (now === "new" ? one.session : null) });
  }
}

async function tellServer(mine) {
  const { heard } = mine;
  const items = Object.fromEntries(listChanged(mine).map((one) => [one.name, write(one)]));
  const [classes, shares] = [JSON.stringify(mine.classes), JSON.stringify(mine.shares ?? [])];
  const body = { since: heard.revision, items: Object.fromEntries(Object.entries(items).map(([name, one]) => [name, JSON.parse(one)])) };
  if (classes !== heard.classes) body.classes = mine.classes;
  if (shares !== heard.shares) body.shares = mine.shares ?? [];
  const told = await json("v1/folder", { method: "PATCH", body });
  Object.assign(heard, { classes, shares });
  Object.assign(heard.items, items);
  hear(mine, told);
  await hold(mine);
  if (set !== mine) return;
  const item = mine.items[at];
  if (item?.name in items && item.session && state.session && item.session !== state.session.id) {
    inform(`Somebody else works on “${item.name}” too; what you do here is in a session of its own, and not in the set.`);
  }
  render();
  showShares();
}

/** Tell the server what has changed in the set of its folder, and hear what others have done. */
function share() {
  const mine = set;
  if (mine?.isFolder) sharing = sharing.then(() => set === mine && tellServer(mine)).catch(complain);
  return sharing;
}

addEventListener("visibilitychange", () => !document.hidden && share());

/** Go on with a set: to the first picture that is not done. */
export async function resumeSet(found) {
  set = found;
  at = -1;
  await go(Math.max(0, set.items.findIndex(isOpen)));
}

async function sessionOf(place, signal) {
  const item = set.items[place];
  try {
    return await openPicture(place, signal);
  } catch (error) {
    if (error.code === "bad_media") {
      item.state = "broken"; // it is passed over from now on
      keep();
      render();
    }
    error.message = error.message.replace(/^Its file /, `“${item.name}” `);
    throw error;
  }
}

async function openPicture(place, signal) {
  const item = set.items[place];
  const source = await sourceOf(place);
  const { file, url, options } = source;
  if (item.session) {
    try {
      return await json(sessionPath(item.session), { signal });
    } catch (error) {
      if (error.code !== "no_session") throw error; // else it is opened again, with what this browser holds of it
    }
    const held = (await listHeld()).find((one) => one.id === item.session);
    if (held?.objects.length) return reopen({ ...held, source }, async () => file, () => {}, signal);
  }
  return url ? openAddress(url, options, signal) : upload(file, options, () => {}, signal);
}

/** Go to a picture of the set. */
export async function go(place) {
  if (!set || place < 0 || place >= set.items.length || place === at) return;
  const mine = set;
  await share(); // another may have begun or finished it meanwhile
  const before = set.items[at];
  // a picture that was only looked at needs no session of its own
  const isUntouched = before?.state === "new" && before.session === state.session?.id && !state.turns.length;
  await opened(async (signal) => {
    const told = await sessionOf(place, signal);
    if (set !== mine) return null;
    at = place;
    set.items[place].session = told.id;
    await keep();
    return told;
  }, await sourceOf(place));
  if (!isUntouched || set !== mine || at !== place) return;
  const { session } = before;
  before.session = null;
  await keep();
  await request(sessionPath(session), { method: "DELETE" }).catch(() => {});
}

/** Next, or previous, picture that can be read. */
export function move(by) {
  let place = at + by;
  while (set?.items[place]?.state === "broken") place += by;
  go(place).catch(complain);
}

/** Say that the picture is done, and go to the next one that is not; or that it is not done after all. */
export function finishPicture() {
  const item = set?.items[at];
  if (!item) return;
  item.state = item.state === "done" ? "work" : "done";
  keep();
  render();
  if (item.state !== "done") return;
  const next = [...set.items.keys()].map((i) => (at + 1 + i) % set.items.length);
  const open = next.find((i) => isOpen(set.items[i]));
  if (open === undefined) inform("All pictures of the set are done.");
  else go(open).catch(complain);
}

// classes

/** Make a class, by its number from 0, that of the selected object and of those to come. Whether there is one. */
export function useClass(number) {
  const name = set?.classes[number];
  if (!name) return false;
  state.label = state.label === name && !state.objects.has(state.target.id) ? null : name;
  if (state.objects.has(state.target.id)) rename(state.target.id, name).catch(complain);
  renderClasses();
  return true;
}

/** Names of classes in a text: one per line, a COCO file, or a labelling setup of Label Studio. */
export function readClasses(text) {
  let names = text.split("\n");
  if (/^\s*[{[]/.test(text)) {
    const found = JSON.parse(text);
    names = (found.categories ?? found).map((one) => one.name ?? one);
  } else if (/^\s*</.test(text)) {
    const found = new DOMParser().parseFromString(text, "text/xml").querySelectorAll("Label, BrushLabels > *");
    names = [...found].map((one) => one.getAttribute("value"));
  }
  return [...new Set(names.map((name) => String(name ?? "").trim()).filter(Boolean))].map((name) => name.slice(0, 80));
}

function renderClasses() {
  const buttons = (set?.classes ?? []).map((name, i) => {
    const button = document.createElement("button");
    const [swatch, key] = [document.createElement("span"), document.createElement("kbd")];
    button.type = "button";
    button.className = "class";
    button.style.setProperty("--colour", colourOfClass(i));
    button.setAttribute("aria-pressed", String(state.label === name));
    swatch.className = "swatch";
    key.textContent = i + 1;
    button.append(swatch, name, ...(i < 9 ? [key] : []));
    button.addEventListener("click", () => useClass(i));
    return button;
  });
  byId("classes").replaceChildren(...buttons);
}

/** Let the visitor write the classes of the set. */
export function editClasses() {
  if (!set) return;
  byId("classes-text").value = set.classes.join("\n");
  byId("classes-dialog").showModal();
}

byId("classes-edit").addEventListener("click", editClasses);
byId("classes-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  try {
    byId("classes-text").value = readClasses(await file.text()).join("\n");
  } catch {
    complain(`“${file.name}” holds no classes; give a text file, a COCO file or a labelling setup of Label Studio.`);
  }
});
byId("classes-form").addEventListener("submit", (event) => {
  event.preventDefault();
  set.classes = readClasses(byId("classes-text").value);
  if (!set.classes.includes(state.label)) state.label = null;
  byId("classes-dialog").close();
  keep();
  tellSet();
  renderClasses();
});
byId("classes-cancel").addEventListener("click", () => byId("classes-dialog").close());

// all at once

/** A request for things of all classes; empty if there are none. */
function askFor(classes) {
  const things = classes.map((name) => `the ${name}`);
  const last = things.pop();
  return last ? `Please segment ${things.length ? `${things.join(", ")} and ` : ""}${last}.` : "";
}

async function askAll() {
  if (asking) return asking.abort();
  const question = byId("question").value.trim();
  const each = !question; // every class by itself, so that what is found is called by it
  const text = question || askFor(set.classes);
  if (!text) return inform("Write what to ask into the field below first, or give the set classes; all pictures are then asked.");
  const mine = set;
  let broken = 0;
  asking = new AbortController();
  byId("ask-all").textContent = "Stop asking";
  try {
    for (const [place, item] of mine.items.entries()) {
      if (set !== mine) break;
      if (!isOpen(item)) continue;
      byId("set-progress").textContent = `Asking ${place + 1} of ${mine.items.length}`;
      if (place === at) {
        await ask(text, each);
        continue;
      }
      let told;
      try {
        told = await sessionOf(place, asking.signal);
      } catch (error) {
        if (error.code !== "bad_media") throw error;
        broken += 1;
        continue;
      }
      item.session = told.id;
      await json(sessionPath(told.id, "keepalive"), { method: "POST" });
      const { objects } = await json(sessionPath(told.id, "ask"), { method: "POST", body: { text, each: each || null }, signal: asking.signal });
      if (objects.length || told.objects.length) item.state = "work";
      await keep();
      render();
    }
  } catch (error) {
    complain(error);
  } finally {
    asking = null;
    byId("ask-all").textContent = "Ask all";
    render();
  }
  if (broken) inform(`${plural(broken, "picture")} cannot be read, and ${broken > 1 ? "were" : "was"} not asked about.`);
}

// the export

const plural = (count, word) => `${count} ${word}${count > 1 ? "s" : ""}`;
const parts = ["train", "val", "test"];

async function exportSet(format) {
  const ids = set.items.filter((one) => one.session && one.state !== "new").map((one) => one.session);
  if (!ids.length) return inform("Nothing is annotated yet in this set.");
  const query = [["format", format], ...ids.map((id) => ["session", id]), ...set.classes.map((name) => ["class", name])];
  if (set.shares) parts.forEach((part, i) => query.push([part, set.shares[i]]));
  const response = await request("v1/export", { query });
  deliver(await response.blob(), `${set.name.replace(/\.\w+$/, "")}-${fileNameOf(response, format)}`);
  const others = set.items.length - ids.length;
  const left = response.headers.get("x-left-out");
  const told = others ? [`${plural(others, "picture")} on which nothing was done ${others > 1 ? "are" : "is"} not in it.`] : [];
  if (left) told.push(`Left out: ${left}.`);
  if (told.length) inform(told.join(" "));
}

function showShares() {
  const { shares } = set;
  byId("split").checked = Boolean(shares);
  byId("shares").hidden = !shares;
  parts.forEach((part, i) => (byId(`share-${part}`).value = shares?.[i] ?? ""));
}

byId("split").addEventListener("change", (event) => {
  set.shares = event.target.checked ? [80, 10, 10] : null;
  keep();
  showShares();
});
for (const [i, part] of parts.entries()) {
  byId(`share-${part}`).addEventListener("change", () => {
    const shares = parts.map((one) => Math.max(0, Math.min(100, Math.round(byId(`share-${one}`).valueAsNumber || 0))));
    const [first, second] = i === 2 ? [0, 1] : [2, 1 - i]; // which of the others gives and takes, so that all make 100
    shares[first] = Math.max(0, 100 - shares[i] - shares[second]);
    shares[second] = 100 - shares[i] - shares[first];
    set.shares = shares;
    keep();
    showShares();
  });
}

// the strip: a thumbnail is drawn when it comes into view, unless it has left it again

const waiting = new Set();
let drawing = 0;
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) waiting.add(target);
    else waiting.delete(target);
  }
  drawNext();
});

function drawNext() {
  if (drawing >= MOST_DRAWN || !waiting.size) return;
  const button = [...waiting].at(-1);
  waiting.delete(button);
  seen.unobserve(button);
  drawing += 1;
  drawThumbnail(button)
    .catch(() => {}) // damaged, or a video of this browser: the number alone is shown
    .finally(() => {
      drawing -= 1;
      drawNext();
    });
  drawNext();
}

async function drawThumbnail(button) {
  const { file, url } = await sourceOf(Number(button.dataset.place));
  const small = url && (await request("v1/folder/thumbnail", { query: { name: url.slice("folder:".length) } }));
  const picture = await createImageBitmap(file ?? (await small.blob()), { resizeHeight: SIDE, resizeQuality: "medium" });
  const canvas = button.querySelector("canvas");
  const scale = Math.max(canvas.width / picture.width, canvas.height / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  canvas.getContext("2d").drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}

function build() {
  seen.disconnect();
  waiting.clear();
  strip.replaceChildren(
    ...(set?.items ?? []).map((item, place) => {
      const [entry, button, canvas] = ["li", "button", "canvas"].map((name) => document.createElement(name));
      canvas.width = canvas.height = SIDE;
      button.type = "button";
      button.dataset.place = place;
      button.append(canvas, String(place + 1));
      button.addEventListener("click", () => go(place).catch(complain));
      entry.append(button);
      seen.observe(button);
      return entry;
    }),
  );
  strip.dataset.set = set?.id ?? "";
}

const WORDS = { new: "new", work: "in work", done: "done", broken: "cannot be read" };

function tellSet() {
  Object.assign(state, { isInSet: Boolean(set), classes: set?.classes ?? [] });
  tell("set");
}

function render() {
  tellSet();
  bar.hidden = !set;
  byId("export-set").hidden = !set;
  if (!set) return;
  if (strip.dataset.set !== set.id) {
    build();
    showShares();
  }
  set.items.forEach((item, place) => {
    const button = strip.children[place].firstChild;
    if (button.dataset.state === item.state) return;
    button.dataset.state = item.state;
    button.setAttribute("aria-label", `${place + 1}, ${item.name}, ${WORDS[item.state]}`);
    button.title = `${item.name}, ${WORDS[item.state]}`;
  });
  const [before, now] = [strip.querySelector("[aria-current]"), strip.children[at]?.firstChild];
  if (before !== now) {
    before?.removeAttribute("aria-current");
    now?.setAttribute("aria-current", "true");
    now?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  if (!asking) byId("set-progress").textContent = `${at + 1} / ${set.items.length} · ${progressOf(set)}`;
  byId("set-previous").disabled = at <= 0;
  byId("set-next").disabled = at >= set.items.length - 1;
  byId("set-done").setAttribute("aria-pressed", String(set.items[at]?.state === "done"));
  renderClasses();
}

/** The set that a session belongs to is there again with it, also after reloading. */
async function find() {
  const id = state.session?.id;
  if (set?.items[at]?.session === id) return render();
  const has = (one) => one.items.some((item) => item.session === id);
  let found = (await listSets()).find((one) => !one.isFolder && has(one));
  if (id && !found && state.health?.has_folder) {
    const { found: shared } = await readFolder();
    if (has(shared)) found = shared;
  }
  if (state.session?.id !== id) return;
  set = found ?? null;
  at = set ? set.items.findIndex((item) => item.session === id) : -1;
  state.label = null;
  render();
}

byId("set-previous").addEventListener("click", () => move(-1));
byId("set-next").addEventListener("click", () => move(1));
byId("set-done").addEventListener("click", finishPicture);
byId("ask-all").addEventListener("click", askAll);
for (const button of document.querySelectorAll("[data-set-format]")) {
  button.addEventListener("click", () => {
    byId("export").hidePopover();
    exportSet(button.dataset.setFormat).catch(complain);
  });
}
on("session health", () => find().catch(complain));
on("objects", () => {
  const item = set?.items[at];
  if (!item || item.session !== state.session?.id || item.state === "done") return;
  const now = state.objects.size ? "work" : "new";
  if (item.state === now) return;
  item.state = now;
  keep();
  render();
});
