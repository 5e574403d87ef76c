/** The page put together: which screen is shown, which session is open, what the server is. */

import { json, sessionPath } from "./api.js";
import "./exporting.js";
import { canRedo, canUndo, leave, redo, refresh, stop, undo, whenLost } from "./jobs.js";
import { held, remember, whenGone } from "./keeping.js";
import { announce, clearNotices, complain, offer } from "./notices.js";
import "./objects.js";
import "./shortcuts.js";
import { whenMoved } from "./set.js";
import { learnDefaults, listSessions, open, whenOpened } from "./start.js";
import { on, state, take, tell } from "./state.js";

const ID = /^s-[\w-]{22}$/;
const POLL_MS = 700;
const IN_WORK = ["open-other", "undo", "redo", "export-open"]; // what the header has for a session
const byId = (id) => document.getElementById(id);

function showStart(lostId = null) {
  leave();
  state.session = null;
  byId("work").hidden = true;
  byId("start").hidden = false;
  for (const id of IN_WORK) byId(id).hidden = true;
  byId("name").textContent = document.title = "unipixel";
  held().then(() => listSessions(lostId));
}

function showWork(told) {
  leave();
  byId("start").hidden = true;
  byId("work").hidden = false;
  for (const id of IN_WORK) byId(id).hidden = false;
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
  const id = location.hash.slice(1);
  if (state.session && state.session.id === id) return;
  if (!ID.test(id)) {
    showStart();
    if (!id) return;
    history.replaceState(null, "", "#");
    return complain(`This link names no session: it ends in “#${id.slice(0, 40)}”. Open a file, or go on with one below.`);
  }
  try {
    showWork(await json(sessionPath(id)));
    clearNotices();
  } catch (error) {
    history.replaceState(null, "", "#");
    showStart(error.code === "no_session" ? id : null);
    complain(error);
  }
}

function counted(parameters) {
  return parameters < 1e9 ? `${Math.max(1, Math.round(parameters / 1e6))} M` : `${(parameters / 1e9).toFixed(1)} B`;
}

async function learnHealth() {
  try {
    state.health = await json("health");
    const { model, device, parameters, memory_bytes, note } = state.health;
    const memory = memory_bytes ? [`${(memory_bytes / 2 ** 30).toFixed(1)} GB`] : [];
    byId("model").textContent = [model, counted(parameters), device, ...memory].join(" · ");
    for (const one of document.querySelectorAll(".model-note")) {
      one.textContent = note;
      one.hidden = !note;
    }
    tell("health");
  } catch (error) {
    complain(error);
  }
}

whenOpened((told, source) => {
  const before = state.session;
  if (source) remember(told.id, source);
  clearNotices();
  showWork(told);
  history.pushState(null, "", `#${told.id}`);
  if (before && !source?.isMove) offer(`${before.name} is kept as it was.`, "Back to it", () => (location.hash = before.id));
});
whenMoved((how, source) => open(how, { ...source, isMove: true }));
for (const told of [whenLost, whenGone]) {
  told((error) => {
    if (!state.session) return; // it was told already
    const { id } = state.session;
    history.replaceState(null, "", "#");
    showStart(id);
    complain(error);
  });
}

byId("open-other").addEventListener("click", () => {
  history.pushState(null, "", "#");
  showStart();
});
byId("undo").addEventListener("click", () => undo().catch(() => {}));
byId("redo").addEventListener("click", () => redo().catch(() => {}));
byId("stop").addEventListener("click", () => stop());
byId("stage").addEventListener("failed", ({ detail }) => {
  if (detail.code === "no_session") refresh();
  else if (state.shown !== null) complain(detail);
});
addEventListener("hashchange", route);
addEventListener("popstate", route);

on("session objects target draft pending busy history", () => {
  byId("undo").disabled = !state.session || !canUndo();
  byId("redo").disabled = !state.session || !canRedo();
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
