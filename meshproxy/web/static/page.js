// Pages without a stream are fetched again now and then, while somebody looks at them.
"use strict";

(() => {
  const EVERY = 10_000;
  async function refresh() {
    const main = document.getElementById("main");
    if (document.hidden || main.contains(document.activeElement) || !getSelection().isCollapsed) return;
    // The header says that nobody has asked: it keeps no session alive.
    const answer = await fetch(location.href, { headers: { "x-meshproxy-refresh": "1" }, redirect: "manual" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    main.replaceWith(document.adoptNode(page.getElementById("main")));
  }
  setInterval(() => refresh().catch(() => {}), EVERY);
})();
