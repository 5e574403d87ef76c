/** The export menu: files of all objects, and saving on the server. */

import { json, request, sessionPath } from "./api.js";
import { announce, complain, deliver, fileNameOf, inform } from "./notices.js";
import { listed, on, state } from "./state.js";

const menu = document.getElementById("export");
const opener = document.getElementById("export-open");
const save = document.getElementById("save");
const isShownOnly = document.getElementById("export-shown");

function query(format) {
  const pairs = [["format", format]];
  if (isShownOnly.checked) for (const { id } of listed()) if (!state.hidden.has(id)) pairs.push(["objects", id]);
  return pairs;
}

async function download(format) {
  if (!state.objects.size) return inform("There is no object in this one to export.");
  const pairs = query(format);
  if (isShownOnly.checked && pairs.length === 1) return inform("All objects are hidden; there is nothing to export.");
  announce("The export is being made.");
  const response = await request(sessionPath(state.session.id, "export"), { query: pairs });
  deliver(await response.blob(), `${state.session.name.replace(/\.\w+$/, "")}-${fileNameOf(response, format)}`);
  const left = response.headers.get("x-left-out");
  if (left) inform(`Left out: ${left}.`);
}

async function keep() {
  const told = await json(sessionPath(state.session.id, "save"), { method: "POST" });
  state.session.isSaved = told.is_saved;
  inform("Saved. It is kept when the server restarts.");
}

for (const button of menu.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => {
    menu.hidePopover();
    download(button.dataset.format).catch(complain);
  });
}
save.addEventListener("click", () => {
  menu.hidePopover();
  keep().catch(complain);
});

/** Whether there is anything to export: objects, or a set. */
export function canExport() {
  return state.objects.size > 0 || state.isInSet;
}

on("objects session set", () => (opener.disabled = !canExport()));
on("health", () => (save.hidden = !state.health.can_save));
