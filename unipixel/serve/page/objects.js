/** The list of objects: colours, names, where they are, and what can be done with them. */

import { mention, openPanel } from "./chat.js";
import { colourOf } from "./colours.js";
import { remove, rename, track } from "./jobs.js";
import { complain, icon } from "./notices.js";
import { changeView, isListed, light, listed, nameOf, on, show, state, wordOf } from "./state.js";
import { select } from "./timeline.js";

const list = document.getElementById("objects-list");
const template = document.getElementById("object-row");
const unsureOnly = document.getElementById("unsure-only");
const rows = new Map();

function rowOf(id) {
  if (!rows.has(id)) rows.set(id, made(id));
  return rows.get(id);
}

function made(id) {
  const row = template.content.firstElementChild.cloneNode(true);
  const find = (name) => row.querySelector(name);
  const label = find(".label");
  row.dataset.id = id;
  find(".number").textContent = id;
  find(".select").addEventListener("click", () => select(id));
  find(".show").addEventListener("click", () => show(id, state.hidden.has(id)));
  find(".delete").addEventListener("click", () => removeObject(id));
  find(".ask-about").addEventListener("click", () => mention(id));
  find(".track-here").addEventListener("click", () => track(id, state.frame).catch(() => {}));
  row.addEventListener("pointerenter", () => light(id));
  row.addEventListener("pointerleave", () => light(null));
  row.addEventListener("focusin", () => light(id));
  row.addEventListener("focusout", () => light(null));
  label.addEventListener("change", async () => {
    try {
      await rename(id, label.value.trim());
    } catch (error) {
      label.value = state.objects.get(id)?.label ?? "";
      complain(error);
    }
  });
  label.addEventListener("keydown", (event) => {
    if (event.key === "Escape") label.value = state.objects.get(id)?.label ?? "";
    if (event.key === "Enter" || event.key === "Escape") label.blur();
  });
  return row;
}

/** Remove an object; nobody is asked, because it can be undone. */
export async function removeObject(id) {
  if (!state.objects.has(id)) return;
  try {
    await remove(id);
  } catch (error) {
    complain(error);
  }
}

/** Put the cursor into an object's name. */
export function beginRenaming(id) {
  openPanel("objects");
  rows.get(id)?.querySelector(".label").select();
}

function facts(object) {
  const count = object.rles.filter(Boolean).length;
  const { num_frames } = state.session.media;
  const where = num_frames > 1 ? `${count}/${num_frames} frames` : count ? "" : "not there";
  const prompts = object.prompts.length ? `${object.prompts.length} prompt${object.prompts.length > 1 ? "s" : ""}` : "";
  return [where, wordOf(object.score), prompts].filter(Boolean).join(" · ");
}

function fill(row, object) {
  const { id } = object;
  const name = `object ${id}, ${nameOf(object)}`;
  const find = (part) => row.querySelector(part);
  const label = find(".label");
  const isHidden = state.hidden.has(id);
  const isTarget = state.target.id === id;
  if (document.activeElement !== label) label.value = object.label;
  row.hidden = !isListed(object);
  row.style.setProperty("--colour", colourOf(id));
  row.classList.toggle("is-hidden", isHidden);
  row.dataset.score = wordOf(object.score);
  find(".facts").title = typeof object.score === "number" ? `The model's own score: ${object.score.toFixed(2)}` : "";
  if (isTarget) row.setAttribute("aria-current", "true");
  else row.removeAttribute("aria-current");
  find(".facts").textContent = facts(object);
  find(".select").setAttribute("aria-pressed", String(isTarget));
  find(".show").setAttribute("aria-pressed", String(!isHidden));
  find(".track-here").hidden = state.session.media.num_frames < 2;
  find(".track-here").disabled = !object.rles[state.frame] || state.busy !== null;
  find(".ask-about").disabled = !object.rles.some(Boolean);
  const labels = {
    ".select": `Select ${name}`,
    ".label": `Name of object ${id}`,
    ".show": `Show ${name}`,
    ".delete": `Delete ${name}`,
    ".ask-about": `Ask about ${name}`,
    ".track-here": `Track ${name} from this frame`,
  };
  for (const [part, text] of Object.entries(labels)) {
    find(part).setAttribute("aria-label", text);
    if (part !== ".label") find(part).title = text;
  }
  const eye = isHidden ? "hidden" : "eye";
  if (!find(".show use").getAttribute("href").endsWith(eye)) find(".show").replaceChildren(icon(eye));
}

function render() {
  if (!state.session) return;
  const objects = listed();
  for (const [id, row] of rows) {
    if (state.objects.has(id)) continue;
    row.remove();
    rows.delete(id);
  }
  objects.forEach((object, place) => {
    const row = rowOf(object.id);
    fill(row, object);
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
  });
  const unsure = objects.filter((one) => ["unsure", "guess"].includes(wordOf(one.score))).length;
  document.getElementById("unsure").hidden = !unsure && !state.view.isUnsureOnly;
  document.getElementById("unsure-text").textContent = `Only unsure ones (${unsure})`;
  unsureOnly.checked = state.view.isUnsureOnly;
  document.getElementById("objects-none").hidden = objects.length > 0;
  document.getElementById("objects-count").textContent = objects.length ? `(${objects.length})` : "";
}

let isQueued = false;
function renderSoon() {
  if (isQueued) return;
  isQueued = true;
  requestAnimationFrame(() => {
    isQueued = false;
    render();
  });
}

on("session", () => {
  list.replaceChildren();
  rows.clear();
});
on("session objects target view set", render);
unsureOnly.addEventListener("change", () => changeView({ isUnsureOnly: unsureOnly.checked }));
on("masks busy frame", renderSoon);
on("lit", () => {
  for (const [id, row] of rows) row.classList.toggle("is-lit", state.lit === id);
});
