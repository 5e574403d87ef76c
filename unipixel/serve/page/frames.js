/** Frames of the clip as pictures that can be drawn; those used last are kept. */

import { request, sessionPath } from "./api.js";
import { state } from "./state.js";

const MOST_PIXELS = 40e6; // kept, over all frames
const WIDTHS = [480, 960, 1600, 2560, 4096];

const kept = new Map();
let owner = null;
let width = WIDTHS[0];

function forgetOthers() {
  if (owner === state.session?.id) return;
  owner = state.session?.id;
  width = WIDTHS[0];
  kept.clear();
}

/** Say how wide, in device pixels, frames are shown. Whether those that are kept are now too small. */
export function wanted(shownWidth) {
  forgetOthers();
  const source = state.session.media.width;
  const next = Math.min(source, WIDTHS.find((one) => one >= shownWidth) ?? WIDTHS.at(-1));
  if (next <= width) return false;
  width = next;
  return true;
}

/** A promise of frame `t`, wide enough for how it is shown. */
export function frame(t) {
  forgetOthers();
  const found = kept.get(t);
  if (found && found.width >= Math.min(width, state.session.media.width)) {
    kept.delete(t);
    kept.set(t, found); // the last used one is the last to go
    return found.picture;
  }
  const media = state.session.media;
  const entry = { width: Math.min(width, media.width), picture: null };
  entry.picture = request(sessionPath(state.session.id, "frames", t), { query: { width: Math.max(16, entry.width) } })
    .then((response) => response.blob())
    .then((blob) => createImageBitmap(blob))
    .catch((error) => {
      if (kept.get(t) === entry) kept.delete(t);
      throw error;
    });
  kept.set(t, entry);
  const room = Math.max(3, Math.floor(MOST_PIXELS / (entry.width * (entry.width / media.width) * media.height)));
  for (const old of kept.keys()) {
    if (kept.size <= room) break;
    kept.delete(old);
  }
  return entry.picture;
}

/** Begin to load the frames that come next. */
export function prefetch(from, count) {
  const last = Math.min(from + count, state.session.media.num_frames);
  for (let t = from; t < last; t++) frame(t).catch(() => {});
}
