/** Frames in time: the slider, playing, and a strip that shows where each object is. */

import { colourOf } from "./colours.js";
import { frame as loaded, prefetch } from "./frames.js";
import { track } from "./jobs.js";
import { complain, icon } from "./notices.js";
import { choose, listed, on, state, tell } from "./state.js";

const AHEAD = 6; // frames loaded in advance
const MOST_ROWS = 6;
const SHORTEST_MS = 33;
const LONGEST_MS = 700;
const slider = document.getElementById("frame");
const play = document.getElementById("play");
const strip = document.getElementById("strip");
const text = document.getElementById("frame-text");
let playing = null;
let followed = null; // the frame to go back to when tracking has ended; false: the visitor has gone elsewhere

function count() {
  return state.session?.media.num_frames ?? 1;
}

function show(t) {
  const next = Math.max(0, Math.min(count() - 1, t));
  if (next === state.frame) return;
  state.frame = next;
  tell("frame");
}

/** Go to a frame of the clip. */
export function goTo(t) {
  if (followed !== null) followed = false;
  show(t);
}

/** Make an object the one that prompts go to, and go where it is to be seen. Whether there is such a frame. */
export function select(id) {
  choose(id);
  const { rles } = state.objects.get(id);
  const first = rles.findIndex(Boolean);
  if (first >= 0 && !rles[state.frame]) goTo(first);
  return first >= 0;
}

/** Go some frames on or back. */
export function step(by) {
  pause();
  goTo(state.frame + by);
}

function seconds(t) {
  const { fps, frame_indices } = state.session.media;
  return fps ? (frame_indices[t] - frame_indices[0]) / fps : null;
}

function pauseAfter(t) {
  const [now, next] = [seconds(t), t + 1 < count() ? seconds(t + 1) : null];
  const ms = now === null || next === null ? 200 : (next - now) * 1000;
  return Math.max(SHORTEST_MS, Math.min(LONGEST_MS, ms));
}

/** Stop playing. */
export function pause() {
  if (!playing) return;
  playing = null;
  tell("playing");
}

/** Play from here, or stop. At the end it begins anew. */
export async function toggle() {
  if (playing) return pause();
  if (count() < 2) return;
  const mine = (playing = {});
  tell("playing");
  if (state.frame === count() - 1) goTo(0);
  try {
    while (playing === mine) {
      const since = performance.now();
      const next = (state.frame + 1) % count();
      prefetch(next, AHEAD);
      await loaded(next); // a slow line slows it down, and nothing is left out
      await new Promise((done) => setTimeout(done, pauseAfter(state.frame) - (performance.now() - since)));
      if (playing !== mine) return;
      goTo(next);
      if (next === count() - 1) return pause();
    }
  } catch (error) {
    pause();
    complain(error);
  }
}

function drawStrip() {
  const ratio = devicePixelRatio;
  const rows = listed().slice(0, MOST_ROWS);
  strip.width = Math.round(strip.clientWidth * ratio);
  strip.height = Math.round(strip.clientHeight * ratio);
  const context = strip.getContext("2d");
  const edge = 8 * ratio; // the slider's knob stops that far from its ends
  const wide = (strip.width - 2 * edge) / Math.max(1, count() - 1);
  const high = strip.height / Math.max(3, rows.length);
  rows.forEach((object, row) => {
    for (let t = 0; t < count(); t++) {
      if (!object.rles[t]) continue;
      context.fillStyle = colourOf(object.id, state.hidden.has(object.id) ? 0.35 : 1);
      const left = Math.round(edge + (t - 0.5) * wide);
      const right = Math.max(left + 1, Math.round(edge + (t + 0.5) * wide));
      context.fillRect(left, Math.round(row * high), right - left, Math.max(1, Math.floor(high) - 1));
    }
  });
  context.fillStyle = getComputedStyle(strip).color;
  for (const prompt of state.objects.get(state.target.id)?.prompts ?? []) {
    context.beginPath();
    context.arc(edge + prompt.frame * wide, strip.height - 3 * ratio, 2.6 * ratio, 0, 2 * Math.PI);
    context.fill();
  }
}

let isQueued = false;
function drawStripSoon() {
  if (isQueued || count() < 2) return;
  isQueued = true;
  requestAnimationFrame(() => {
    isQueued = false;
    if (state.session) drawStrip();
  });
}

slider.addEventListener("input", () => {
  pause();
  goTo(slider.valueAsNumber);
});
play.addEventListener("click", toggle);
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
document.getElementById("track").addEventListener("click", () => track().catch(() => {}));
new ResizeObserver(drawStripSoon).observe(strip);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawStripSoon);
new MutationObserver(drawStripSoon).observe(document.documentElement, { attributeFilter: ["data-theme"] });

on("session", () => {
  pause();
  followed = null;
  document.getElementById("timeline").hidden = count() < 2;
  slider.max = count() - 1;
});
on("session frame", () => {
  slider.value = state.frame;
  const at = seconds(state.frame);
  const clock = at === null ? "" : ` · ${Math.floor(at / 60)}:${(at % 60).toFixed(1).padStart(4, "0")}`;
  text.value = `${state.frame + 1} / ${count()}${clock}`;
  slider.setAttribute("aria-valuetext", `frame ${state.frame + 1} of ${count()}`);
});
on("playing session", () => {
  play.setAttribute("aria-label", playing ? "Pause" : "Play");
  play.replaceChildren(icon(playing ? "pause" : "play"));
});
on("objects masks target session set", drawStripSoon);
on("objects busy", () => {
  document.getElementById("track").disabled = !state.objects.size || state.busy !== null;
});
on("busy", () => {
  if (!state.busy) {
    if (typeof followed === "number") show(followed);
    followed = null;
  } else if (state.busy.frame !== null && document.getElementById("follow").checked && !playing) {
    followed ??= state.frame;
    // the next one is gone to when this one's picture is there, or none would ever be seen
    if (followed !== false && state.shown === state.frame) show(state.busy.frame);
  }
});
