// The page of the mesh: one event stream keeps the picture and both tables as they are.
"use strict";

(() => {
  const element = (id) => document.getElementById(id);
  const section = element("picture");
  section.hidden = false;
  const picture = makePicture(element("graph"), section.dataset.icons.split(" "));
  const names = new Map();
  const rows = new Map();
  for (const row of document.querySelectorAll("tr[data-edge]")) rows.set(row.dataset.edge, row);

  function cell(row, name) {
    return row.querySelector(`[data-cell=${name}]`);
  }

  function set(row, name, value) {
    const found = cell(row, name);
    if (found.textContent !== value) found.textContent = value;
  }

  function mark(row, name, kind, value) {
    const found = cell(row, name).firstElementChild;
    if (found && found.className === kind && found.textContent === value) return;
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = value;
    cell(row, name).replaceChildren(span);
  }

  function link(model) {
    const anchor = document.createElement("a");
    anchor.href = `/model?name=${encodeURIComponent(model)}`;
    anchor.textContent = model;
    return anchor;
  }

  // As parts.html makes one on the server.
  function newRow(edge, isShare) {
    const row = document.createElement("tr");
    row.dataset.edge = edge.id;
    const cells = isShare ? ["health", "model", "version", "share"] : ["health", "caller", "model", "secured"];
    for (const name of [...cells, "rate", "success", "denied", "p50", "p95", "p99"]) {
      const isHead = name === "caller" || name === "version";
      const made = document.createElement(isHead ? "th" : "td");
      if (isHead) made.scope = "row";
      if (!["health", "caller", "model", "secured", "version"].includes(name)) made.className = "n";
      made.dataset.cell = name;
      row.append(made);
    }
    const target = names.get(edge.target);
    if (isShare) {
      cell(row, "model").append(link(target.model));
      set(row, "version", target.name);
    } else {
      set(row, "caller", names.get(edge.source).name);
      cell(row, "model").append(link(target.name));
    }
    const body = element(isShare ? "shares" : "calls").tBodies[0];
    body.append(row);
    rows.set(edge.id, row);
    return row;
  }

  function show(edge) {
    const isShare = edge.source.startsWith("model:");
    const row = rows.get(edge.id) || newRow(edge, isShare);
    const traffic = edge.traffic;
    mark(row, "health", `health ${traffic.health}`, traffic.health);
    if (isShare) set(row, "share", text.percent(edge.share));
    else mark(row, "secured", ...text.secured(traffic.mtls));
    set(row, "rate", text.rate(traffic.rate));
    set(row, "success", text.percent(traffic.success));
    set(row, "denied", String(traffic.denied));
    for (const name of ["p50", "p95", "p99"]) set(row, name, text.seconds(traffic.latency[name]));
  }

  // What stands where there is nothing, and the models that nobody calls.
  function showIdle() {
    for (const table of [element("calls"), element("shares")])
      table.querySelector(".none").hidden = table.querySelector("tr[data-edge]") !== null;
    const idle = [...names.values()].filter((node) => node.kind === "model" && node.traffic.calls === 0);
    const list = element("idle").querySelector("ul");
    element("idle").hidden = idle.length === 0;
    const models = idle.map((node) => node.name).sort();
    const shown = [...list.children].map((item) => item.textContent.trim()).sort();
    if (models.join("\n") === shown.join("\n")) return; // somebody may be there with the keyboard
    list.replaceChildren(...models.map((model) => {
      const item = document.createElement("li");
      item.append(link(model));
      return item;
    }));
  }

  function update(head, nodes, edges, removed) {
    performance.mark("mesh-begin");
    for (const id of removed) {
      names.delete(id);
      if (rows.has(id)) rows.get(id).remove();
      rows.delete(id);
    }
    for (const node of nodes) names.set(node.id, node);
    edges.forEach(show);
    showIdle();
    const { late = 0, silent = 0 } = head.reports.processes;
    element("incomplete").hidden = late + silent === 0;
    set(element("incomplete"), "silent", String(late + silent));
    set(element("calls"), "seconds", String(Math.round(head.seconds)));
    picture.update(nodes, edges, removed);
    element("lost").hidden = true;
    performance.measure("mesh-update", "mesh-begin");
  }

  const stream = new EventSource(`/events${location.search}`);
  stream.addEventListener("graph", (message) => {
    const graph = JSON.parse(message.data);
    const ids = new Set([...graph.nodes, ...graph.edges].map((each) => each.id));
    const removed = [...names.keys(), ...rows.keys()].filter((id) => !ids.has(id));
    update(graph, graph.nodes, graph.edges, removed);
  });
  stream.addEventListener("change", (message) => {
    const change = JSON.parse(message.data);
    update(change.graph, change.nodes, change.edges, change.removed);
  });
  stream.addEventListener("over", () => {
    stream.close();
    lost("Your session has ended: load the page again to log in.");
  });
  stream.addEventListener("error", () => lost("The control plane does not answer: what is here is as it was."));

  function lost(why) {
    element("lost").textContent = why;
    element("lost").hidden = false;
  }

  picture.cy.on("tap", "node", (event) => {
    const node = names.get(event.target.id());
    if (node.kind !== "caller") location.href = `/model?name=${encodeURIComponent(node.model || node.name)}`;
    else element("find").value = node.name, find();
  });
  function find() {
    const wanted = element("find").value.trim().toLowerCase();
    picture.find(wanted);
    for (const row of rows.values()) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  }
  element("find").addEventListener("input", find);
  element("closer").addEventListener("click", () => picture.zoom(1.3));
  element("farther").addEventListener("click", () => picture.zoom(1 / 1.3));
  element("fit").addEventListener("click", () => picture.cy.fit(undefined, 20));
  element("graph").addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (event.key in steps) picture.cy.panBy({ x: steps[event.key][0], y: steps[event.key][1] });
    else if (event.key === "+") picture.zoom(1.3);
    else if (event.key === "-") picture.zoom(1 / 1.3);
    else if (event.key === "0") picture.cy.fit(undefined, 20);
    else return;
    event.preventDefault();
  });
})();
