/** The conversation: questions, answers as they are written, and chips that point at masks. */

import { colourOf } from "./colours.js";
import { ask } from "./jobs.js";
import { inform } from "./notices.js";
import { light, nameOf, on, state } from "./state.js";
import { select } from "./timeline.js";

const NEAR = 60; // pixels from the end at which new words are followed
const scroll = document.getElementById("chat-scroll");
const turns = document.getElementById("turns");
const question = document.getElementById("question");
const send = document.getElementById("send");
const suggestions = document.getElementById("suggestions");
const made = new WeakMap();
let suggested = null; // the ideas that are shown

const IDEAS = {
  "picture.png": ["Please segment the dog in this image.", "Please segment the rocket in this image."],
  "clip.mp4": ["Please segment the rocket and the butterfly in this video.", "Please segment the pizza in this video."],
};

/** Put `[id]` into the question. */
export function mention(id) {
  const mark = `[${id}]`;
  const { value, selectionStart } = question;
  const before = value.slice(0, selectionStart);
  const space = before && !before.endsWith(" ") ? " " : "";
  question.setRangeText(`${space}${mark} `, selectionStart, question.selectionEnd, "end");
  openPanel("chat");
  question.focus();
  ready();
}

/** Bring the chat or the objects forward, where there is room for one of them only. */
export function openPanel(name) {
  document.getElementById("work").dataset.panel = name;
  for (const button of document.querySelectorAll(".switch button")) {
    button.setAttribute("aria-pressed", String(button.dataset.panel === name));
  }
}

function ready() {
  send.disabled = !question.value.trim() || !state.session || state.turns.some((turn) => turn.isWriting);
}

async function submit() {
  const text = question.value.trim();
  if (send.disabled || !text) return;
  question.value = "";
  ready();
  try {
    await ask(text);
  } catch {
    if (!question.value) question.value = text; // to be asked again
  }
  ready();
}

function chip(id) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.dataset.id = id;
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  button.append(swatch, String(id));
  button.addEventListener("pointerenter", () => light(id));
  button.addEventListener("pointerleave", () => light(null));
  button.addEventListener("focus", () => light(id));
  button.addEventListener("blur", () => light(null));
  button.addEventListener("click", () => {
    if (!select(id)) inform(`Object ${id} is visible on no frame.`);
  });
  return button;
}

/** Words with `[id]` as chips; the name right before one is underlined in its colour. */
function rich(text) {
  const parts = [];
  for (const part of text.split(/(\[\d{1,5}\])/)) {
    const found = /^\[(\d+)\]$/.exec(part);
    if (!found) {
      parts.push(part);
      continue;
    }
    const id = Number(found[1]);
    const label = state.objects.get(id)?.label;
    const before = parts.at(-1) ?? "";
    if (label && typeof before === "string" && before.trimEnd().endsWith(label)) {
      const start = before.lastIndexOf(label);
      const words = document.createElement("span");
      words.className = "words";
      words.style.setProperty("--colour", colourOf(id));
      words.textContent = label;
      parts.splice(-1, 1, before.slice(0, start), words, before.slice(start + label.length));
    }
    parts.push(chip(id));
  }
  return parts;
}

function itemsOf(turn) {
  if (!made.has(turn)) {
    const [asked, answered] = [document.createElement("li"), document.createElement("li")];
    asked.className = "asked";
    answered.className = "answered";
    asked.append(who("You: "), ...rich(turn.question));
    made.set(turn, { asked, answered, text: null });
  }
  return made.get(turn);
}

function who(text) {
  const label = document.createElement("span");
  label.className = "unseen";
  label.textContent = text;
  return label;
}

function fill(turn) {
  const items = itemsOf(turn);
  const text = JSON.stringify([turn.text, turn.note, turn.isWriting]);
  if (items.text === text) return items;
  items.text = text;
  items.answered.classList.toggle("is-writing", Boolean(turn.isWriting));
  items.answered.setAttribute("aria-busy", String(Boolean(turn.isWriting))); // read out once it is complete
  items.answered.replaceChildren(who("unipixel: "), ...rich(turn.text));
  if (turn.note) {
    const note = document.createElement("span");
    note.className = "aside";
    note.textContent = turn.note;
    items.answered.append(note);
  }
  return items;
}

function render() {
  const isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR;
  const wanted = state.turns.flatMap((turn) => {
    const { asked, answered } = fill(turn);
    return turn.question ? [asked, answered] : [answered];
  });
  wanted.forEach((item, place) => {
    if (turns.children[place] !== item) turns.insertBefore(item, turns.children[place] ?? null);
  });
  while (turns.children.length > wanted.length) turns.lastChild.remove();
  document.getElementById("chat-none").hidden = wanted.length > 0;
  mark();
  ready();
  if (isAtEnd) scroll.scrollTop = scroll.scrollHeight;
}

/** What chips say follows the objects. */
function mark() {
  const isWriting = state.turns.some((turn) => turn.isWriting);
  for (const button of turns.querySelectorAll(".chip")) {
    const id = Number(button.dataset.id);
    const object = state.objects.get(id);
    button.disabled = !object;
    button.style.setProperty("--colour", colourOf(id));
    button.classList.toggle("is-gone", !object && !isWriting); // while it is written, it is yet to come
    button.setAttribute("aria-label", object ? `Object ${id}, ${nameOf(object)}` : `Object ${id}, removed`);
    button.title = button.getAttribute("aria-label");
    button.classList.toggle("is-lit", state.lit === id);
  }
}

function suggest() {
  const { name, media } = state.session;
  const kind = media.num_frames > 1 ? "video" : "image";
  const others = state.health?.note
    ? [`Please segment the … in this ${kind}.`, "What is [1]?"] // a small model knows things, no whole scenes
    : [`Please segment the … in this ${kind}.`, `What is in this ${kind}?`, "What is [1] doing?"];
  const ideas = (IDEAS[name] ?? others).filter((idea) => !idea.includes("[1]") || state.objects.has(1));
  if (ideas.join() === suggested) return;
  suggested = ideas.join();
  suggestions.replaceChildren(
    ...ideas.map((idea) => {
      const [item, button] = [document.createElement("li"), document.createElement("button")];
      button.type = "button";
      button.textContent = idea;
      button.addEventListener("click", () => take(idea));
      item.append(button);
      return item;
    }),
  );
}

function take(idea) {
  question.value = idea;
  question.focus();
  const gap = idea.indexOf("…");
  if (gap >= 0) question.setSelectionRange(gap, gap + 1);
  ready();
}

document.getElementById("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
question.addEventListener("input", ready);
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
for (const button of document.querySelectorAll(".switch button")) {
  button.addEventListener("click", () => openPanel(button.dataset.panel));
}

document.getElementById("sample").style.setProperty("--colour", colourOf(1));
on("session", () => {
  question.value = "";
  suggested = null;
});
on("session objects health", () => state.session && suggest());
on("session turns", render);
on("objects lit set", mark);
on("masks", () => turns.querySelector(".chip:disabled") && mark());
