// Comfort only: every page works without it.
"use strict";

const find = (selector, root) => (root || document).querySelector(selector);
const all = (selector, root) => [...(root || document).querySelectorAll(selector)];

// The setup link carries its token after the #, which browsers send to no server
// and write into no log. Here it becomes a form's field, and leaves the address.
(function setup() {
  const form = find("form[data-setup]");
  const match = /^#t=([0-9A-Za-z-]{1,100})$/.exec(location.hash);
  if (!form || !match) return;
  history.replaceState(null, "", location.pathname);
  form.elements.token.value = match[1];
  form.submit();
})();

// A page says which events concern it (data-watch). When one comes, it fetches its main part
// again, and what differs is patched in: elements with data-live, wherever they are. What
// somebody types, marks or selects stays as it is.
(function live() {
  const main = find("main[data-watch], main[data-every]");
  if (!main || !window.EventSource) return;
  const watch = (main.dataset.watch || "").split(" ").filter(Boolean);
  const line = find("[data-line]");
  let stream, timer, ticker, asked = 0, lostAt = 0, last = main.dataset.since;

  function say(text) { if (line && line.textContent !== text) line.textContent = text; }

  function concerns(e) {
    return watch.some((w) => w.startsWith("device:") ? e.device_id === w.slice(7) : w === "*" || (e.action || "").startsWith(w));
  }

  function listen() {
    if (stream || !watch.length || document.hidden) return;
    stream = new EventSource("/admin/events?after=" + encodeURIComponent(last || 0));
    stream.onopen = function () {
      if (lostAt && Date.now() - lostAt > 3500) soon(0); // what no event tells, and was missed
      lostAt = 0;
      say("");
    };
    stream.onmessage = function (e) {
      if (e.lastEventId) last = e.lastEventId;
      let told;
      try { told = JSON.parse(e.data); } catch (_) { return; }
      if (concerns(told)) soon(300);
    };
    stream.addEventListener("gap", function () { soon(0); });
    stream.onerror = function () {
      lostAt = lostAt || Date.now();
      // Streams end by themselves each minute; only what lasts is worth a word.
      setTimeout(function () { if (lostAt && Date.now() - lostAt > 3500) say("Reconnecting …"); }, 4000);
      if (stream && stream.readyState === EventSource.CLOSED) { // a status, not a cut: the session may be over
        stream = null;
        setTimeout(function () { refresh(); listen(); }, 5000);
      }
    };
  }

  function soon(ms) {
    clearTimeout(timer);
    timer = setTimeout(refresh, Math.max(ms, asked + 700 - Date.now()));
  }

  async function refresh() {
    if (document.hidden) return;
    asked = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html", "Gatehouse-Part": "main" }, redirect: "manual" });
      if (answer.type === "opaqueredirect" || answer.status === 401) { // the session ended, maybe by a form whose answer is awaited
        if (!find("form[data-sent]")) location.reload();
        return;
      }
      if (!answer.ok) return say("The server answers with an error. Trying again.");
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const every = page.getElementById("main") ? page.getElementById("main").dataset.every || "" : "";
      if (every !== (main.dataset.every || "")) { main.dataset.every = every; tick(); }
      for (const part of all("[data-live]")) {
        const fresh = page.getElementById(part.id);
        if (fresh) patch(part, fresh); else if (!part.contains(document.activeElement)) part.remove();
      }
      for (const fresh of all("[data-live]", page)) { // what has come stands before what it stood before there
        if (document.getElementById(fresh.id)) continue;
        let next = fresh.nextElementSibling;
        while (next && !(next.id && document.getElementById(next.id))) next = next.nextElementSibling;
        if (next) document.getElementById(next.id).before(fresh);
      }
      document.dispatchEvent(new Event("patched"));
      if (!lostAt) say("");
    } catch (_) {
      say("The server can’t be reached. Trying again.");
    }
  }

  // Changes no more than what differs: focus, selection and open details stay.
  function patch(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
    if (old.nodeType !== Node.ELEMENT_NODE) return void (old.nodeValue = fresh.nodeValue);
    if (old.matches("input, select, textarea")) return; // somebody is filling it in
    for (const a of [...old.attributes]) if (!fresh.hasAttribute(a.name) && !keeps(old, a.name)) old.removeAttribute(a.name);
    for (const a of fresh.attributes) if (old.getAttribute(a.name) !== a.value && !keeps(old, a.name)) old.setAttribute(a.name, a.value);
    const keyed = new Map(all(":scope > [data-key-of]", old).map((e) => [e.dataset.keyOf, e]));
    const blank = (node) => node.nodeType === Node.TEXT_NODE && !node.nodeValue.trim();
    let children = [...fresh.childNodes];
    if (keyed.size) { // rows come and go: space between them is nothing to hold on to
      children = children.filter((node) => !blank(node));
      [...old.childNodes].filter(blank).forEach((node) => node.remove());
    }
    let at = old.firstChild;
    for (const child of children) {
      const same = child.dataset && keyed.get(child.dataset.keyOf);
      if (same && same !== at) { old.insertBefore(same, at); patch(same, child); continue; }
      if (!at) { old.append(child); continue; }
      const next = at.nextSibling;
      if (!same && at.dataset && at.dataset.keyOf && child.dataset && child.dataset.keyOf) { old.insertBefore(child, at); continue; }
      patch(at, child);
      at = next;
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  function keeps(e, name) { return name === "open" || name === "data-marked" || name === "hidden" && e.matches("[data-copy], [data-open], [data-print]"); }

  function tick() {
    clearInterval(ticker);
    if (+main.dataset.every) ticker = setInterval(refresh, main.dataset.every * 1000);
  }

  // Streams die in the background without a word; what is stale is fetched on the way back.
  function back() {
    if (document.hidden) { if (stream) stream.close(); stream = null; return; }
    refresh();
    listen();
  }
  document.addEventListener("visibilitychange", back);
  window.addEventListener("pageshow", function (e) { if (e.persisted) back(); });
  window.addEventListener("pagehide", function () { if (stream) stream.close(); stream = null; });
  listen();
  tick();
})();

// Lists: j and k move a mark, x selects, o opens; what is selected is counted.
const rows = () => all("[data-rows] > *").filter((row) => row.offsetParent !== null || row.getClientRects().length);
let marked = -1;
function mark(step) {
  const list = rows();
  if (!list.length) return;
  marked = list.findIndex((row) => row.hasAttribute("data-marked"));
  list.forEach((row) => row.removeAttribute("data-marked"));
  marked = Math.min(Math.max(marked + step, 0), list.length - 1);
  list[marked].setAttribute("data-marked", "");
  const link = find("a[href]", list[marked]);
  if (link) link.focus({ preventScroll: true });
  list[marked].scrollIntoView({ block: "nearest" });
}
function current() { return find("[data-rows] > [data-marked]"); }

function countSelected() {
  const boxes = all("[data-rows] input[type=checkbox]");
  const n = boxes.filter((box) => box.checked).length;
  for (const e of all("[data-selected]")) e.textContent = n === 1 ? "1 selected" : n + " selected";
  for (const e of all("[data-needs-selection]")) e.hidden = n === 0;
  const every = find("[data-select-all]");
  if (every) { every.checked = n > 0 && n === boxes.length; every.indeterminate = n > 0 && n < boxes.length; }
}

// What counts of a typed name: no keyboard has all of the rest. The server compares so, too.
const plain = (text) => text.normalize("NFKC").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "");

// Forms of filters send themselves; typed confirmations open their button; copies copy.
function enhance() {
  for (const button of all("[data-copy], [data-open], [data-print]")) button.hidden = false;
  for (const field of all("[data-typed]")) {
    const button = field.form && find("button[type=submit]", field.form);
    const word = plain(field.dataset.typed);
    if (button) button.disabled = word ? plain(field.value) !== word : field.value.trim() !== field.dataset.typed.trim();
  }
  for (const e of all("[data-only-without-script]")) e.hidden = true;
  countSelected();
}
document.addEventListener("change", function (e) {
  if (e.target.matches("[data-select-all]")) all("[data-rows] input[type=checkbox]").forEach((box) => { box.checked = e.target.checked; });
  if (e.target.closest("form[data-auto]") && !e.target.matches("input[type=search], input[type=text]")) e.target.form.requestSubmit();
  countSelected();
});
// A form is sent once, however often somebody taps; on the way back it may be sent again.
document.addEventListener("submit", function (e) {
  if (e.target.method !== "post" || e.target.method === "dialog") return;
  if (e.target.dataset.sent) e.preventDefault();
  e.target.dataset.sent = "yes";
  setTimeout(function () { delete e.target.dataset.sent; }, 3000); // it may have answered with a file
});
window.addEventListener("pageshow", function () { all("form[data-sent]").forEach((form) => { delete form.dataset.sent; }); });
document.addEventListener("input", function (e) { if (e.target.matches("[data-typed]")) enhance(); });
document.addEventListener("patched", enhance);
document.addEventListener("click", async function (e) {
  const copy = e.target.closest("[data-copy]");
  if (copy) {
    const text = find("#" + CSS.escape(copy.dataset.copy));
    try { await navigator.clipboard.writeText(text.value || text.textContent); copy.textContent = "Copied"; } catch (_) { getSelection().selectAllChildren(text); copy.textContent = "Press ⌘C"; }
    setTimeout(function () { copy.textContent = "Copy"; }, 2500);
  }
  const open = e.target.closest("[data-open]");
  if (open) find("#" + CSS.escape(open.dataset.open)).showModal();
  const print = e.target.closest("[data-print]");
  if (print) window.print();
});

// Keys. None of them is taken from who types, or from the browser.
(function keys() {
  let goes = 0;
  document.addEventListener("keydown", function (e) {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input:not([type=checkbox]):not([type=radio]), select, textarea, [contenteditable], dialog")) return;
    if (!find("nav.sections")) return;
    const link = goes && Date.now() - goes < 1500 && find('nav.sections a[data-key="' + CSS.escape(e.key) + '"]');
    goes = 0;
    if (link) return void link.click();
    const row = current();
    const actions = {
      "/": () => find("[data-find]").select() || find("[data-find]").focus(),
      "?": () => find("#keys").showModal(),
      g: () => { goes = Date.now(); },
      j: () => mark(1),
      k: () => mark(-1),
      o: () => row && find("a[href]", row) && find("a[href]", row).click(),
      x: () => { const box = row && find("input[type=checkbox]", row); if (box) box.click(); },
      e: () => {
        const command = all("[data-command]").find((c) => c.getClientRects().length);
        if (command) command.click();
        else if (find("[data-needs-selection]")) find("[data-line]").textContent = "Select devices first: j and k move, x selects.";
      },
    };
    if (!actions[e.key]) return;
    e.preventDefault();
    actions[e.key]();
  });
})();

enhance();
(function showCurrent() {
  const here = find("nav.sections [aria-current]");
  const strip = here && here.closest(".strip");
  if (strip) strip.scrollLeft = here.offsetLeft - (strip.clientWidth - here.offsetWidth) / 2;
})();
