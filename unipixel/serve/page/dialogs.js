/** Windows above the page: help and the key. */

import { keysFrom } from "./api.js";
import { on, state } from "./state.js";

const byId = (id) => document.getElementById(id);
const keyDialog = byId("key-dialog");

function ended(dialog) {
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue), { once: true }));
}

async function askForKey(wasRefused) {
  byId("key-text").textContent = wasRefused
    ? "That key was not accepted. Enter another one."
    : "Enter the API key that you were given.";
  byId("key").value = "";
  keyDialog.returnValue = "";
  keyDialog.showModal();
  const how = await ended(keyDialog);
  return how === "given" ? { key: byId("key").value.trim(), keep: byId("key-keep").checked } : null;
}

/** Open the help. */
export function openHelp() {
  byId("help").showModal();
}

/** Whether a window or a menu is open. */
export function isDialogOpen() {
  return document.querySelector("dialog[open], :popover-open") !== null;
}

/** A number of bytes in words. */
export function bytes(count) {
  return count >= 1 << 20 ? `${Math.floor(count / (1 << 20))} MB` : `${Math.ceil(count / 1024)} kB`;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keyDialog.close("given");
});
byId("key-cancel").addEventListener("click", () => keyDialog.close(""));
byId("help-open").addEventListener("click", openHelp);
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog && dialog !== keyDialog) dialog.close(""); // beside it
  });
}
keysFrom(askForKey);

on("health", () => {
  const { model, device, version, limits } = state.health;
  byId("server-text").textContent =
    `Model ${model} on ${device}, unipixel ${version}. Files up to ${bytes(limits.max_upload_bytes)}, ` +
    `clips up to ${limits.max_frames} frames, ${limits.max_objects} objects.`;
});
