// Renews the page when the stream tells of something: what the server shows is fetched anew and put in place, at most once a
// second, less often where that takes long, and now and then by itself, because ages grow. Everything works without this.
"use strict";

const RENEW_MS = 1000;
const REST_FACTOR = 10;
const AGES_MS = 15000;
const LISTEN_AFTER_MS = 700;
const live = document.getElementById("live");
let due = null;
let next = Date.now() + RENEW_MS;
let running = false;
let silent = false;
let stream = null;
let again = false;

// What was done is said once.
const address = new URL(location.href);
if (address.searchParams.has("done")) {
  address.searchParams.delete("done");
  history.replaceState(null, "", address);
}

// Nothing moves under the hands of who writes, chooses or reads what opened.
function isBusy() {
  const renewed = document.getElementById("renewed");
  const focused = document.activeElement;
  const writes = renewed.contains(focused) && focused.matches("input, select, textarea");
  const marks = !document.getSelection().isCollapsed;
  return document.hidden || writes || marks || renewed.querySelector("details.careful[open]") !== null;
}

// Finds the same element in the page that came.
function trace(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  const label = element.getAttribute("aria-label");
  if (label) return `${element.localName}[aria-label="${CSS.escape(label)}"]`;
  const href = element.getAttribute("href");
  return href ? `${element.localName}[href="${CSS.escape(href)}"]` : null;
}

async function renew() {
  due = null;
  if (running || isBusy()) {
    again = true;
    return;
  }
  running = true;
  again = false;
  const from = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
    silent = false;
    // A store that cannot be asked is news as well: what stood here is not so any more.
    if (!answer.ok && answer.status !== 503) return;
    const came = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("renewed");
    const shown = document.getElementById("renewed");
    if (!came || isBusy()) return;
    const focused = shown.contains(document.activeElement) ? trace(document.activeElement) : null;
    for (const open of shown.querySelectorAll("details[id][open]")) {
      came.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
    }
    const moved = [...shown.querySelectorAll(".wide")].map((wide) => wide.scrollLeft);
    shown.replaceWith(came);
    came.querySelectorAll(".wide").forEach((wide, nth) => { wide.scrollLeft = moved[nth] || 0; });
    if (focused) came.querySelector(focused)?.focus({ preventScroll: true });
  } catch {
    // It is asked again with the next word of the stream, or by itself.
    silent = true;
  } finally {
    tell();
    next = from + Math.max(RENEW_MS, REST_FACTOR * (Date.now() - from));
    running = false;
    if (again) soon();
  }
}

// Whether what is shown is how it is.
function tell() {
  live.textContent = silent ? "no answer" : "live";
  live.classList.toggle("silent", silent);
  live.hidden = !silent && (stream === null || stream.readyState !== EventSource.OPEN);
}

function soon() {
  if (due === null) due = setTimeout(renew, Math.max(0, next - Date.now()));
}

// Only who stays is told: the daemon has places for a few who listen. Without one it is asked for again later.
function listen() {
  if (stream !== null && stream.readyState !== EventSource.CLOSED) return;
  stream = new EventSource("/api/v1/stream");
  stream.onopen = tell;
  stream.onerror = tell;
  stream.addEventListener("change", soon);
  stream.addEventListener("delivery", soon);
}
setTimeout(listen, LISTEN_AFTER_MS);
setInterval(() => { listen(); soon(); }, AGES_MS);
for (const what of ["visibilitychange", "focusout", "selectionchange", "toggle"]) {
  document.addEventListener(what, () => { if (again) soon(); }, true);
}
