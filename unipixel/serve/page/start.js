/** The screen that opens a picture or a video: a file, an address, an example, or a session that is there already. */

import { json, openAddress, request, sessionPath, sessions, upload } from "./api.js";
import { bytes, confirm } from "./dialogs.js";
import { complain, icon, inform } from "./notices.js";
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

async function open(how) {
  under?.abort();
  const mine = (under = new AbortController());
  drop.hidden = true;
  opening.hidden = false;
  try {
    const session = await how(mine.signal);
    if (!mine.signal.aborted) opened(session);
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
  return open((signal) => {
    say(`Sending ${file.name}…`, 0);
    const told = (part) =>
      part < 1 ? say(`Sending ${file.name}: ${Math.floor(part * 100)} %`, part) : say(`Opening ${file.name}…`);
    return upload(file, options(), told, signal);
  });
}

function openExample(name) {
  return open(async (signal) => {
    say(`Opening ${name}…`);
    const blob = await (await request(`examples/${name}`, { signal })).blob();
    return upload(new File([blob], name, { type: blob.type }), options(), () => {}, signal);
  });
}

function openUrl(url) {
  return open((signal) => {
    say("Fetching it…");
    return openAddress(url, options(), signal);
  });
}

/** Open one of the files that were dropped or chosen. */
export function openFirst(files) {
  if (!files.length) return;
  if (files.length > 1) inform("One file is opened at a time; this is the first.");
  openFile(files[0]);
}

/** Show which sessions there are. */
export async function listSessions() {
  try {
    const found = await sessions();
    byId("recent").hidden = !found.length;
    byId("recent-list").replaceChildren(...found.reverse().map(line));
  } catch (error) {
    byId("recent").hidden = true;
    complain(error);
  }
}

function line({ id, name, created, is_saved }) {
  const [item, go, close] = [
    document.createElement("li"),
    document.createElement("button"),
    document.createElement("button"),
  ];
  const [title, when] = [document.createElement("span"), document.createElement("small")];
  item.dataset.id = id;
  go.type = close.type = "button";
  go.className = "quiet";
  title.textContent = name;
  const time = new Date(created * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  when.textContent = is_saved ? `${time} · saved` : time;
  go.append(title, when);
  go.addEventListener("click", () => (location.hash = id));
  close.className = "quiet icon";
  close.setAttribute("aria-label", `Delete ${name} of ${time}`);
  close.append(icon("delete"));
  close.addEventListener("click", async () => {
    if (!(await confirm(`Delete the session about ${name}, with all its objects?`, "Delete"))) return;
    await request(sessionPath(id), { method: "DELETE" }).catch(complain);
    listSessions();
  });
  item.append(go, close);
  return item;
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  openFirst([...event.target.files]);
  event.target.value = ""; // the same file can be chosen again
});
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
  openFirst([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => openFirst([...(event.clipboardData?.files ?? [])]));

on("health", () => {
  const { max_upload_bytes, max_frames } = state.health.limits;
  byId("limits").textContent = `Up to ${bytes(max_upload_bytes)}, clips up to ${max_frames} frames`;
});

/** Say how many frames the model reads if nothing else is chosen. */
export async function learnDefaults() {
  const { data } = await json("v1/models");
  byId("num-frames").placeholder = data[0].unipixel.default_num_frames;
}
