/** Keys, what they do, and the table that tells. */

import { openPanel } from "./chat.js";
import { removeCorner, step as stepCorner } from "./corners.js";
import { isDialogOpen, openHelp } from "./dialogs.js";
import { canExport } from "./exporting.js";
import { redo, stop, track, undo } from "./jobs.js";
import { announce } from "./notices.js";
import { beginRenaming, removeObject } from "./objects.js";
import { editClasses, finishPicture, move, useClass } from "./set.js";
import { zoomBy } from "./stage.js";
import { changeView, isListed, listed, nameOf as objectName, show, state, tell } from "./state.js";
import { goTo, select, step, toggle } from "./timeline.js";
import { applyDraft, beginPan, cancel, endPan, useMode, useTool } from "./tools.js";

const NAME = "unipixel.single-keys";
const FAR = 10;
const box = document.getElementById("single-keys");
const quiet = (promise) => promise.catch(() => {});
const target = (act) => () => state.objects.has(state.target.id) && act(state.target.id);

function focusQuestion() {
  openPanel("chat");
  document.getElementById("question").focus();
}

function resizeBrush(by) {
  if (state.tool === "polygon") return stepCorner(Math.sign(by));
  state.brushSize = Math.max(1, Math.min(100, state.brushSize + by));
  tell("tool");
}

function erase() {
  if (state.tool === "polygon" && removeCorner()) return;
  if (state.objects.has(state.target.id)) removeObject(state.target.id);
}

function escape() {
  if (cancel()) return;
  if (state.busy) quiet(stop());
}

/** Keys as they are shown, what they do in words, the keys as events name them, and what to call. */
const SHORTCUTS = [
  ["V", "Select and move the view", { v: () => useTool("select") }],
  ["P", "Points", { p: () => useTool("point") }],
  ["B", "Boxes", { b: () => useTool("box") }],
  ["M", "Brush for masks", { m: () => useTool("brush") }],
  ["G", "Outline: move, add and remove corners", { g: () => useTool("polygon") }],
  ["[ ]", "Smaller, larger brush; with the outline: corner before, next corner", { "[": () => resizeBrush(-2), "]": () => resizeBrush(2) }],
  ["N", "Start a new object", { n: () => useMode("new") }],
  ["A S", "Add to the selected object; take away from it", { a: () => useMode("add"), s: () => useMode("away") }],
  [
    "1 … 9",
    "Select the object with that number; in a set with classes: give the class to the selected and to new objects",
    Object.fromEntries(Array.from({ length: 9 }, (_, i) => [i + 1, () => useClass(i) || pick(i + 1)])),
  ],
  ["J K", "Select the object before, the next object", { j: () => pickBeside(-1), k: () => pickBeside(1) }],
  ["H", "Hide or show the selected object", { h: target((id) => show(id, state.hidden.has(id))) }],
  [
    "Shift H",
    "Hide or show all objects",
    { "shift+h": () => changeView({ isHidden: !state.view.isHidden }) },
  ],
  ["O", "Outlines only, or filled", { o: () => changeView({ isOutline: !state.view.isOutline }) }],
  ["R", "Rename the selected object", { r: target(beginRenaming) }],
  ["Delete", "Delete the selected object, or the corner that was taken last", { Delete: erase, Backspace: erase }],
  ["Ctrl Z", "Undo", { "ctrl+z": () => quiet(undo()), u: () => quiet(undo()) }],
  [
    "Ctrl Shift Z",
    "Redo; also Ctrl Y",
    { "ctrl+shift+z": () => quiet(redo()), "ctrl+y": () => quiet(redo()), "shift+u": () => quiet(redo()) },
  ],
  ["Enter", "Apply what was painted; Ctrl Enter with the crosshair", { Enter: applyDraft, "ctrl+Enter": applyDraft }],
  ["Esc", "Cancel what was begun; stop the work", { Escape: escape }],
  ["T", "Track all objects again", { t: () => state.objects.size && !state.busy && quiet(track()) }],
  [
    "← →",
    "Frame by frame; with Shift, ten",
    {
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
      "shift+ArrowLeft": () => step(-FAR),
      "shift+ArrowRight": () => step(FAR),
      ",": () => step(-1),
      ".": () => step(1),
    },
  ],
  ["Home End", "First, last frame", { Home: () => goTo(0), End: () => goTo(Infinity) }],
  ["Space", "Play or pause; held down, the pointer moves the view", { " ": beginPan }],
  [
    "+ - 0",
    "Zoom in, out, fit; also the wheel",
    { "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: () => zoomBy(0) },
  ],
  ["PageUp PageDown", "Previous, next picture of the set", { PageUp: () => move(-1), PageDown: () => move(1) }],
  ["D", "The picture is done: on to the next", { d: finishPicture }],
  ["C", "Classes of the set", { c: editClasses }],
  ["X", "Crosshair: use the picture by keyboard", { x: () => document.getElementById("overlay").focus() }],
  ["/", "Write a question", { "/": focusQuestion }],
  ["E", "Export", { e: () => canExport() && document.getElementById("export").showPopover() }],
  ["?", "This help", { "?": openHelp }],
];
const actions = new Map(SHORTCUTS.flatMap(([, , keys]) => Object.entries(keys)));

function pick(number) {
  if (state.objects.has(number)) select(number);
}

function pickBeside(by) {
  const objects = listed().filter(isListed);
  if (!objects.length) return;
  const at = objects.findIndex((one) => one.id === state.target.id);
  const next = at < 0 ? (by > 0 ? 0 : objects.length - 1) : (at + by + objects.length) % objects.length;
  select(objects[next].id);
  announce(`Object ${objects[next].id}, ${objectName(objects[next])}, is selected.`);
}

function nameOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isShifted = event.shiftKey && /^([a-z]|Arrow.*)$/.test(key);
  return `${event.ctrlKey || event.metaKey ? "ctrl+" : ""}${isShifted ? "shift+" : ""}${key}`;
}

function isTyping(element) {
  return element.matches?.('textarea, input:not([type="checkbox"], [type="radio"], [type="range"])');
}

function isOwnKey(element, key) {
  const isPressed = key === "Enter" || key === " ";
  if (isPressed && element.matches?.("button, summary, input, a")) return true;
  return element.matches?.('input[type="range"]') && /^(shift\+)?(Arrow|Home|End)/.test(key);
}

addEventListener("keydown", (event) => {
  const key = nameOf(event);
  const { target: element } = event;
  const isElsewhere = isDialogOpen() || (document.getElementById("work").hidden && key !== "?");
  if (event.defaultPrevented || event.altKey || isElsewhere || isTyping(element) || isOwnKey(element, key)) return;
  if (!box.checked && key.length === 1) return;
  const act = actions.get(key);
  if (!act) return;
  event.preventDefault();
  act();
});

addEventListener("keyup", (event) => {
  if (event.key === " " && !endPan()) toggle();
});
addEventListener("blur", endPan);

for (const one of document.querySelectorAll("[aria-keyshortcuts]")) {
  const keys = one.getAttribute("aria-keyshortcuts").replaceAll("Control", "Ctrl");
  one.title = `${one.getAttribute("aria-label") ?? one.innerText} (${keys})`;
}

box.checked = localStorage.getItem(NAME) !== "off";
box.addEventListener("change", () => {
  if (box.checked) localStorage.removeItem(NAME);
  else localStorage.setItem(NAME, "off");
});

document.getElementById("shortcuts").append(
  ...SHORTCUTS.map(([keys, words]) => {
    const [row, left, right] = [
      document.createElement("tr"),
      document.createElement("td"),
      document.createElement("td"),
    ];
    for (const key of keys.split(" ")) {
      if (key === "…") {
        left.append("… ");
        continue;
      }
      const shown = document.createElement("kbd");
      shown.textContent = key;
      left.append(shown, " ");
    }
    right.textContent = words;
    row.append(left, right);
    return row;
  }),
);
