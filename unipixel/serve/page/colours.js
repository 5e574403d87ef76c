/** The colour of an object: the same as in exported pictures, or, in a set with classes, that of its class. */

import { state } from "./state.js";

const GOLDEN_RATIO = (Math.sqrt(5) - 1) / 2;
const UNCLASSED = [150, 155, 165];
const LIGHTS = [
  [0.85, 0.95],
  [0.65, 1.0],
  [0.95, 0.72],
];

/** Red, green and blue, 0 to 255, of an object id. */
export function rgbOf(id) {
  const hue = (0.02 + id * GOLDEN_RATIO) % 1;
  const [saturation, value] = LIGHTS[Math.floor(id / 8) % 3];
  const channel = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

/** A CSS colour of the class at a place, from 0. */
export function colourOfClass(place) {
  return `rgb(${rgbOf(place + 1).join(" ")})`;
}

/** A CSS colour of an object; grey where there are classes, and it has none of them yet. */
export function colourOf(id, opacity = 1) {
  const { classes, objects } = state;
  const place = classes.indexOf(objects.get(id)?.label);
  const rgb = !classes.length ? rgbOf(id) : place >= 0 ? rgbOf(place + 1) : UNCLASSED;
  return `rgb(${rgb.join(" ")} / ${opacity})`;
}
