// Comfort only: every page works without it. Written for Safari of iOS 13.
"use strict";

(function () {
  function all(selector, root) { return Array.prototype.slice.call((root || document).querySelectorAll(selector)); }
  function show(e, yes) { if (yes) e.removeAttribute("hidden"); else e.setAttribute("hidden", ""); }

  // An iPad says that it is a Mac, but a Mac has no fingers.
  const fingers = document.querySelector("[data-fingers]");
  if (fingers && navigator.maxTouchPoints > 1) return location.replace(fingers.href);

  // Copying.
  function copier(button, text, copied) {
    const label = button.textContent;
    button.addEventListener("click", function () {
      const source = text();
      const done = function () {
        button.textContent = copied;
        setTimeout(function () { button.textContent = label; }, 2000);
      };
      if (navigator.clipboard && navigator.clipboard.writeText) return navigator.clipboard.writeText(source.value || source.textContent).then(done, function () {});
      if (source.select) {
        source.focus();
        source.setSelectionRange(0, source.value.length);
      } else {
        getSelection().selectAllChildren(source);
      }
      if (document.execCommand("copy")) done();
    });
    show(button, true);
  }
  all("[data-copy-from]").forEach(function (button) {
    copier(button, function () { return document.getElementById(button.dataset.copyFrom); }, button.dataset.copied);
  });
  all("[data-copy]").forEach(function (block) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = block.dataset.copy;
    block.insertAdjacentElement("afterend", button);
    copier(button, function () { return block; }, block.dataset.copied);
  });

  // For how long the device keeps what was downloaded.
  all("[data-countdown]").forEach(function (line) {
    const clock = line.querySelector(".clock");
    let end = 0;
    let ticking;
    function tick() {
      const left = Math.max(0, Math.round((end - Date.now()) / 1000));
      clock.textContent = Math.floor(left / 60) + ":" + ("0" + left % 60).slice(-2);
      all("[data-while]", line).forEach(function (e) { show(e, e.dataset.while === (left ? "running" : "ended")); });
      if (!left) clearInterval(ticking);
    }
    function start(seconds) {
      end = Date.now() + seconds * 1000;
      clearInterval(ticking);
      ticking = setInterval(tick, 1000);
      tick();
    }
    if (+line.dataset.left) start(+line.dataset.left);
    all("[data-starts-countdown]").forEach(function (link) {
      link.addEventListener("click", function () { start(+line.dataset.countdown); });
    });
  });

  // The trust probe: a picture that loads once the device trusts the authority.
  const probing = document.querySelector("[data-probe]");
  if (probing) {
    all(".probe", probing).forEach(function (e) { show(e, true); });
    const probe = function () {
      const picture = new Image();
      picture.onload = function () {
        const form = document.createElement("form");
        form.method = "post";
        form.action = probing.dataset.trusted;
        document.body.appendChild(form);
        form.submit();
      };
      picture.onerror = function () { setTimeout(probe, 3000); };
      picture.src = probing.dataset.probe + "?" + Date.now();
    };
    probe();
  }

  // What the server knows of the enrollment.
  const watched = document.querySelector("[data-events]");
  if (!watched || !window.fetch || !window.DOMParser) return;
  let last = "";
  let busy = false;
  let again = false;
  let stream = null;
  let over = false;

  // Changes no more than what differs: focus, and what was opened, stay.
  function patch(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.parentNode.replaceChild(fresh, old);
    if (old.nodeType !== Node.ELEMENT_NODE) { old.nodeValue = fresh.nodeValue; return; }
    Array.prototype.slice.call(old.attributes).forEach(function (a) { if (!fresh.hasAttribute(a.name) && a.name !== "open") old.removeAttribute(a.name); });
    Array.prototype.slice.call(fresh.attributes).forEach(function (a) { if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value); });
    const children = Array.prototype.slice.call(fresh.childNodes);
    Array.prototype.slice.call(old.childNodes).forEach(function (child, i) {
      if (i < children.length) patch(child, children[i]); else old.removeChild(child);
    });
    children.slice(old.childNodes.length).forEach(function (child) { old.appendChild(child); });
  }

  function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" }).then(function (answer) {
      if (answer.redirected) return location.replace(answer.url); // to the step that is due now
      if (!answer.ok) return null;
      return answer.text().then(function (html) {
        const page = new DOMParser().parseFromString(html, "text/html");
        const main = page.querySelector("main");
        if (main && main.querySelector("[data-live]")) {
          patch(document.querySelector("main"), main);
          document.title = page.title;
        }
      });
    }).catch(function () {}).then(function () {
      busy = false;
      if (again) { again = false; refresh(); }
    });
  }

  function listen() {
    if (!window.EventSource || over) return;
    if (stream) stream.close();
    stream = new EventSource(watched.dataset.events);
    stream.onmessage = function (e) {
      over = JSON.parse(e.data).over;
      if (e.data !== last) { if (last || watched.hasAttribute("data-live")) refresh(); last = e.data; }
      if (over) stream.close();
    };
  }

  // Settings came in between: the stream is dead, and says nothing of it.
  function back() { if (!document.hidden) { refresh(); listen(); } }
  document.addEventListener("visibilitychange", back);
  window.addEventListener("pageshow", function (e) { if (e.persisted) back(); });
  window.addEventListener("online", back);
  // Times and hints move on by themselves; and so does the page where no stream gets through.
  setInterval(function () { if (!document.hidden && !over && watched.hasAttribute("data-live")) refresh(); }, 10000);
  setInterval(function () { if (stream && stream.readyState === 2 && !over && !document.hidden) listen(); }, 1000);
  listen();
})();
