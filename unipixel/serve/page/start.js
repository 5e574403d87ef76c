/** The screen that opens a picture or a video: a file, an address, an example, or a session that is there already. */

import { json, openAddress, request, sessionPath, sessions, upload } from "./api.js";
import { bytes } from "./dialogs.js";
import { letGo, listHeld, reopen, toCoco } from "./keeping.js";
import { complain, deliver, icon, inform, offer } from "./notices.js";
import { forgetSet, listSets, openFiles, progressOf, readFolder, resumeSet } from "./set.js";
import { on, state } from "./state.js";

const byId = (id) => document.getElementById(id);
const drop = byId("drop");
const opening = byId("opening");
let under = null; // what cancels the opening under way
let opened = () => {};

/** Say what to do with a session that was opened, as the server tells it. */
export function whenOpened(told) {
  opened = told;
}

function options() {
  const value = (id) => byId(id).valueAsNumber;
  const isAll = document.querySelector('input[name="track"]:checked').value === "all";
  const chosen = { track: isAll ? "all" : "sampled" };
  if (isAll && value("every") > 1) chosen.every = value("every");
  if (!isAll && value("num-frames") > 0) chosen.num_frames = value("num-frames");
  return chosen;
}

function say(text, part = null) {
  byId("opening-text").textContent = text;
  const bar = byId("opening-progress");
  if (part === null) bar.removeAttribute("value");
  else bar.value = part;
}

/** Open a session: `how` gives it as the server tells it, `source` is what it is opened from. */
export async function open(how, source = null) {
  if (state.draft) return inform("Apply or discard what you have painted first; the file was not opened.");
  under?.abort();
  const mine = (under = new AbortController());
  drop.hidden = true;
  opening.hidden = false;
  try {
    const session = await how(mine.signal);
    if (session && !mine.signal.aborted) opened(session, source);
  } catch (error) {
    complain(error);
  } finally {
    if (under === mine) {
      under = null;
      drop.hidden = false;
      opening.hidden = true;
    }
  }
}

/** Open a file of the visitor's. */
export function openFile(file) {
  const most = state.health?.limits.max_upload_bytes;
  if (most && file.size > most) {
    return complain(`“${file.name}” is ${bytes(file.size)} large; at most ${bytes(most)} are allowed here.`);
  }
  const chosen = options();
  return open(async (signal) => {
    try {
      return await upload(file, chosen, sending(file), signal);
    } catch (error) {
      error.message = error.message.replace(/^Its file /, `“${file.name}” `);
      throw error;
    }
  }, { file, options: chosen });
}

function sending(file) {
  say(`Sending ${file.name}…`, 0);
  return (part) =>
    part < 1 ? say(`Sending ${file.name}: ${Math.floor(part * 100)} %`, part) : say(`Opening ${file.name}…`);
}

function openExample(name) {
  return open(async (signal) => {
    say(`Opening ${name}…`);
    const blob = await (await request(`examples/${name}`, { signal })).blob();
    return upload(new File([blob], name, { type: blob.type }), options(), () => {}, signal);
  });
}

function openUrl(url) {
  const chosen = options();
  return open(
    (signal) => {
      say("Fetching it…");
      return openAddress(url, chosen, signal);
    },
    { url, options: chosen },
  );
}

/** Open what was dropped or chosen: one file, or several as a set. */
export function openAll(files) {
  if (files.length === 1) openFile(files[0]);
  else if (files.length) openFiles(files).catch(complain);
}

/** The files of what was dropped, those in folders, too. */
async function unfold(entries) {
  const files = [];
  for (const one of entries) {
    if (one?.isFile) files.push(await new Promise((done, failed) => one.file(done, failed)));
    if (!one?.isDirectory) continue;
    const reader = one.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) break;
      files.push(...(await unfold(some)));
    }
  }
  return files.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}

/** Show which sessions the server has, and what this browser holds of others; `lostId` is one just lost. */
export async function listSessions(lostId = null) {
  let known = null;
  try {
    known = (await sessions()).filter((one) => !going.has(one.id));
  } catch (error) {
    complain(error);
  }
  byId("recent").hidden = !known?.length;
  byId("recent-list").replaceChildren(...(known ?? []).reverse().map(line));
  const folder = await showFolder();
  const sets = (await listSets()).filter((one) => !going.has(one.id) && one.id !== folder);
  byId("sets").hidden = !sets.length;
  byId("sets-list").replaceChildren(...sets.map(setLine));
  const ids = new Set(known?.map((one) => one.id));
  const held = (await listHeld()).filter((one) => !ids.has(one.id) && !going.has(one.id));
  byId("held").hidden = !known || !held.length;
  byId("held-list").replaceChildren(...held.map(heldLine));
  byId("held-list").querySelector(`[data-id="${CSS.escape(lostId ?? "")}"] .go`)?.focus();
}

/** Offer the server's folder, if it has one; the id of its set. */
async function showFolder() {
  if (!state.health?.has_folder) return null;
  try {
    const { found, others } = await readFolder();
    const count = found.items.length.toLocaleString();
    byId("server-folder").hidden = false;
    byId("server-folder-title").textContent = found.name;
    const more = others ? ` ${others} more are not listed.` : "";
    byId("server-folder-text").textContent = `${count} pictures and videos on the server, ${progressOf(found)}.${more}`;
    byId("server-folder-open").onclick = () => resumeSet(found).catch(complain);
    return found.id;
  } catch (error) {
    complain(error);
    return null;
  }
}

const going = new Set(); // ids of what is deleted unless that is undone

function button(text, act, name = text) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (name !== text) made.setAttribute("aria-label", name);
  made.addEventListener("click", act);
  return made;
}

function entry(id, name, facts, ...buttons) {
  const [item, words] = [document.createElement("li"), document.createElement("span")];
  const [title, when] = [document.createElement("span"), document.createElement("small")];
  item.dataset.id = id;
  title.textContent = name;
  when.textContent = facts;
  words.className = "words-of";
  words.append(title, when);
  item.append(words, ...buttons);
  return item;
}

function timeOf(ms) {
  return new Date(ms).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}

/** A button that deletes a line, unless that is undone: `label` is its name, `told` what is said then. */
function deleter(id, label, told, act) {
  const made = button("", () => {
    going.add(id);
    made.closest("li").remove();
    const keep = () => {
      going.delete(id);
      listSessions();
    };
    offer(told, "Undo", keep, act);
  });
  made.className = "quiet icon";
  made.setAttribute("aria-label", label);
  made.append(icon("delete"));
  return made;
}

function sessionDeleter(id, name, time, act = () => {}) {
  return deleter(id, `Delete ${name} of ${time}`, `The session about ${name} is deleted.`, () => {
    act();
    letGo(id);
  });
}

function line({ id, name, created, is_saved }) {
  const time = timeOf(created * 1000);
  const go = button("", () => (location.hash = id));
  go.className = "quiet go";
  // also when the page is left, so that nobody finds again what is gone
  const away = () => request(sessionPath(id), { method: "DELETE", keepalive: true }).catch(complain);
  const item = entry(id, name, is_saved ? `${time} · saved` : time, sessionDeleter(id, name, time, away));
  go.append(...item.firstChild.childNodes);
  item.firstChild.replaceWith(go);
  return item;
}

function setLine(found) {
  const { id, name, when } = found;
  const again = button("Go on", () => resumeSet(found).catch(complain), `Go on with ${name}`);
  again.className = "go";
  const told = `The set ${name} is deleted; what was done in its pictures is kept below.`;
  const away = deleter(id, `Delete the set ${name}`, told, () => forgetSet(id));
  return entry(id, name, `${progressOf(found)} · ${timeOf(when)}`, again, away);
}

function heldLine(found) {
  const { id, name, when, objects } = found;
  const count = `${objects.length} object${objects.length === 1 ? "" : "s"}`;
  const again = button("Open again", () => openHeld(found), `Open ${name} again`);
  again.className = "go";
  const away = sessionDeleter(id, name, timeOf(when));
  return entry(id, name, `${count} · ${timeOf(when)}`, again, button("COCO", () => write(found), `COCO of ${name}`), away);
}

function openHeld(found) {
  const told = (part) => part === 1 || say(`Sending ${found.name}…`, part);
  return open((signal) => {
    say(`Opening ${found.name} again…`);
    return reopen(found, pick, told, signal);
  });
}

/** The file that the visitor chooses; null if none. */
function pick() {
  const input = byId("file-again");
  input.value = "";
  inform("Choose the file that it was about.");
  return new Promise((done) => {
    input.onchange = () => done(input.files[0] ?? null);
    input.oncancel = () => done(null);
    input.click();
  });
}

function write(found) {
  deliver(new Blob([JSON.stringify(toCoco(found))]), `${found.name.replace(/\.\w+$/, "")}-coco.json`);
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("choose-folder").addEventListener("click", () => byId("folder").click());
for (const id of ["file", "folder"]) {
  byId(id).addEventListener("change", (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // the same file can be chosen again
    openAll(files);
  });
}
byId("opening-cancel").addEventListener("click", () => under?.abort());
byId("url-form").addEventListener("submit", (event) => {
  event.preventDefault();
  openUrl(byId("url").value.trim());
});
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => openExample(button.dataset.example));
}
for (const [id, way] of [
  ["num-frames", "sampled"],
  ["every", "all"],
]) {
  byId(id).addEventListener(
    "input",
    () => (document.querySelector(`input[name="track"][value="${way}"]`).checked = true),
  );
}

// dropped or pasted anywhere

const isFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragover", (event) => {
  if (!isFile(event)) return;
  event.preventDefault();
  byId("dropping").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("dropping").hidden = true;
});
addEventListener("drop", (event) => {
  if (!isFile(event)) return;
  event.preventDefault();
  byId("dropping").hidden = true;
  const entries = [...event.dataTransfer.items].map((one) => one.webkitGetAsEntry?.());
  if (entries.some((one) => one?.isDirectory)) unfold(entries).then(openAll, complain);
  else openAll([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => openAll([...(event.clipboardData?.files ?? [])]));

on("health", () => {
  const { max_upload_bytes, max_frames } = state.health.limits;
  byId("limits").textContent = `Up to ${bytes(max_upload_bytes)}, clips up to ${max_frames} frames`;
});

/** Say how many frames the model reads if nothing else is chosen. */
export async function learnDefaults() {
  const { data } = await json("v1/models");
  byId("num-frames").placeholder = data[0].unipixel.default_num_frames;
}
