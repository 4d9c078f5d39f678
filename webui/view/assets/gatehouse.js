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
  let part = document.querySelector("[data-live]");
  if (!part || !window.fetch || !window.DOMParser) return;
  let timer;

  async function refresh() {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "manual" });
      if (answer.type === "opaqueredirect" || answer.status === 401) return location.reload(); // the session ended
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("[data-live]");
        const focused = document.activeElement && part.contains(document.activeElement);
        if (fresh && !focused && fresh.innerHTML !== part.innerHTML) {
          part.replaceWith(fresh);
          part = fresh;
        }
      }
    } catch (e) {
      // Offline, or the server restarts: the next try will tell.
    }
    schedule();
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
