/**
 * What the visitor is told: errors that stay until they are dismissed, news that go by themselves, words for screen
 * readers.
 */

const MOST = 3;
const NEWS_MS = 5000;
const board = document.getElementById("notices");
const news = document.getElementById("news");

function put(kind, text) {
  for (const old of board.children) if (old.dataset.text === text) old.remove(); // said anew, not twice
  const notice = document.createElement("div");
  notice.className = `notice ${kind}`;
  notice.dataset.text = text;
  const words = document.createElement("p");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "quiet icon";
  close.setAttribute("aria-label", "Dismiss");
  close.append(icon("close"));
  close.addEventListener("click", () => notice.remove());
  notice.append(words, close);
  board.append(notice);
  while (board.children.length > MOST) board.firstChild.remove();
  return notice;
}

/** Show an error until it is dismissed; cancelled work is none. */
export function complain(error) {
  if (error?.name === "AbortError") return;
  if (error instanceof Error && !("status" in error)) console.error(error); // a mistake of the page itself
  put("error", error?.message ?? String(error));
}

/** Show something good to know for a while. */
export function inform(text) {
  const notice = put("news", text);
  setTimeout(() => notice.remove(), NEWS_MS);
}

/** Say something to those who cannot see it. */
export function announce(text) {
  news.textContent = text;
}

/** Take all notices away. */
export function clearNotices() {
  board.replaceChildren();
}

/** One of the page's icons. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}
