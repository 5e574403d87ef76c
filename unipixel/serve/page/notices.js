/**
 * What the visitor is told: errors that stay until they are dismissed, news that go by themselves, words for screen
 * readers.
 */

const MOST = 3;
const NEWS_MS = 5000;
const OFFER_MS = 10_000; // for which something can be taken back by a button
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

/**
 * Say what was done and let it be taken back: by the button `act` is called, and when the notice goes without it,
 * `otherwise`.
 */
export function offer(text, label, act, otherwise = () => {}) {
  const notice = put("news", text);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", () => {
    otherwise = () => {};
    notice.remove();
    act();
  });
  notice.children[0].after(button);
  settled.observe(board, { childList: true });
  waiting.set(notice, () => otherwise());
  setTimeout(() => notice.remove(), OFFER_MS);
}

const waiting = new Map();
/** However a notice went, what it waited with is done. */
function settle(isAll) {
  for (const [notice, done] of waiting) {
    if (notice.isConnected && !isAll) continue;
    waiting.delete(notice);
    done();
  }
}
const settled = new MutationObserver(() => settle(false));
addEventListener("pagehide", () => settle(true));

/** Say something to those who cannot see it. */
export function announce(text) {
  news.textContent = text;
}

/** Take all notices away. */
export function clearNotices() {
  board.replaceChildren();
}

/** Give the visitor a file. */
export function deliver(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  inform(`Exported ${name}`);
}

/** What the server calls a file that it sends. */
export function fileNameOf(response, otherwise) {
  return /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "")?.[1] ?? otherwise;
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
