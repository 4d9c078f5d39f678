// Comfort only: every page works without it.
"use strict";

// The setup link carries its token after the #, which browsers send to no server
// and write into no log. Here it becomes a form's field, and leaves the address.
(function setup() {
  const form = document.querySelector("form[data-setup]");
  const match = /^#t=([0-9A-Za-z-]{1,100})$/.exec(location.hash);
  if (!form || !match) return;
  history.replaceState(null, "", location.pathname);
  form.elements.token.value = match[1];
  form.submit();
})();

// A page with a live part fetches itself again while somebody looks at it.
(function live() {
  const every = 3000;
  const part = document.querySelector("[data-live]");
  if (!part || !window.fetch || !window.DOMParser) return;
  let timer;
  const offline = document.createElement("p");
  offline.className = "offline";
  offline.setAttribute("role", "status");
  offline.hidden = true;
  part.after(offline);

  async function refresh() {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "manual" });
      if (answer.type === "opaqueredirect" || answer.status === 401) return location.reload(); // the session ended
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("[data-live]");
        if (fresh) patch(part, fresh);
      }
      offline.textContent = answer.ok ? "" : "The server answers with an error. Trying again.";
    } catch (e) {
      offline.textContent = "The server can’t be reached. Trying again.";
    }
    offline.hidden = !offline.textContent;
    schedule();
  }

  // Changes no more than what differs: focus and selection stay where they are.
  function patch(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
    if (old.nodeType !== Node.ELEMENT_NODE) return void (old.nodeValue = fresh.nodeValue);
    for (const a of [...old.attributes]) if (!fresh.hasAttribute(a.name)) old.removeAttribute(a.name);
    for (const a of fresh.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
    const children = [...fresh.childNodes];
    [...old.childNodes].forEach(function (child, i) {
      if (i < children.length) patch(child, children[i]); else child.remove();
    });
    old.append(...children.slice(old.childNodes.length));
  }

  function schedule() {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, every);
  }

  // Timers stop in the background; what is stale is fetched on the way back.
  document.addEventListener("visibilitychange", function () { if (!document.hidden) refresh(); });
  window.addEventListener("pageshow", function (e) { if (e.persisted) refresh(); });
  schedule();
})();
