/** The page put together: which screen is shown, which session is open, what the server is. */

import { json, sessionPath } from "./api.js";
import "./exporting.js";
import { canUndo, leave, refresh, stop, undo, whenLost } from "./jobs.js";
import { announce, clearNotices, complain } from "./notices.js";
import "./objects.js";
import "./shortcuts.js";
import { learnDefaults, listSessions, whenOpened } from "./start.js";
import { on, state, take, tell } from "./state.js";

const ID = /^s-[\w-]{22}$/;
const POLL_MS = 700;
const byId = (id) => document.getElementById(id);

function showStart() {
  leave();
  state.session = null;
  byId("work").hidden = true;
  byId("start").hidden = false;
  for (const id of ["open-other", "undo", "export-open"]) byId(id).hidden = true;
  byId("name").textContent = document.title = "unipixel";
  listSessions();
}

function showWork(told) {
  leave();
  byId("start").hidden = true;
  byId("work").hidden = false;
  for (const id of ["open-other", "undo", "export-open"]) byId(id).hidden = false;
  byId("name").textContent = told.name;
  document.title = `${told.name} · unipixel`;
  state.session = null;
  take(told);
  announce(`${told.name} is open.`);
  if (told.is_busy) wait(told.id);
}

/** Another page, or this one before it was reloaded, has work under way. */
async function wait(id) {
  state.busy = { label: "Working", done: 0, total: 0, frame: null };
  tell("busy");
  for (;;) {
    await new Promise((done) => setTimeout(done, POLL_MS));
    if (state.session?.id !== id || state.busy?.label !== "Working") return;
    try {
      const told = await json(sessionPath(id));
      if (state.session?.id !== id) return;
      take(told);
      if (told.is_busy) continue;
    } catch (error) {
      complain(error);
    }
    state.busy = null;
    return tell("busy");
  }
}

async function route() {
  const id = decodeURIComponent(location.hash.slice(1));
  if (state.session && state.session.id === id) return;
  if (!ID.test(id)) return showStart();
  try {
    showWork(await json(sessionPath(id)));
    clearNotices();
  } catch (error) {
    location.replace("#");
    showStart();
    complain(error);
  }
}

async function learnHealth() {
  try {
    state.health = await json("health");
    byId("model").textContent = `${state.health.model} · ${state.health.device}`;
    tell("health");
  } catch (error) {
    complain(error);
  }
}

whenOpened((told) => {
  clearNotices();
  showWork(told);
  history.pushState(null, "", `#${told.id}`);
});
whenLost(() => {
  history.replaceState(null, "", "#");
  showStart();
});

byId("open-other").addEventListener("click", () => {
  history.pushState(null, "", "#");
  showStart();
});
byId("undo").addEventListener("click", () => undo().catch(() => {}));
byId("stop").addEventListener("click", () => stop());
byId("stage").addEventListener("failed", ({ detail }) => (detail.code === "no_session" ? refresh() : complain(detail)));
addEventListener("hashchange", route);
addEventListener("popstate", route);

on("session objects target draft pending busy", () => {
  byId("undo").disabled = !state.session || !canUndo();
});
on("busy", () => {
  const { busy } = state;
  byId("busy").hidden = !busy;
  if (!busy) return;
  const isCounted = busy.total > 1;
  byId("busy-text").textContent = isCounted ? `${busy.label} ${busy.done} of ${busy.total}` : `${busy.label}…`;
  const bar = byId("busy-progress");
  if (isCounted) Object.assign(bar, { max: busy.total, value: busy.done });
  else bar.removeAttribute("value");
});

await learnHealth();
await route();
learnDefaults().catch(() => {}); // the placeholder stays empty
