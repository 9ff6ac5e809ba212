// The picture of the graph: callers on the left, models in the middle, versions on the right.
"use strict";

// Above this many nodes dagre takes seconds: then each kind has a column of its own.
const LAYERED_NODES = 150;
const COLUMN = 215, ROW = 46;

function makePicture(holder, icons) {
  const [locked, open] = icons;

  function style() {
    const css = getComputedStyle(document.documentElement);
    const color = (name) => css.getPropertyValue(`--${name}`).trim();
    const health = (each) => color(each.data("health"));
    return [
      { selector: "node", style: {
        shape: "round-rectangle", width: 190, height: 34, label: "data(label)", "font-size": 12,
        "font-family": "system-ui, sans-serif", color: color("ink"), "text-valign": "center", "text-halign": "center",
        "text-wrap": "ellipsis", "text-max-width": 170, "min-zoomed-font-size": 7,
        "background-color": color("paper"), "border-width": 2, "border-color": health } },
      { selector: "node[kind = 'model']", style: { "font-weight": "bold", "background-color": color("track") } },
      { selector: "node[health = 'failing']", style: { "border-width": 4 } },
      { selector: "node[kind = 'caller'][lock]", style: {
        "background-image": (each) => (each.data("lock") === "locked" ? locked : open),
        "background-width": 16, "background-height": 16, "background-position-x": 7, "background-position-y": "50%",
        "text-margin-x": 8, "text-max-width": 150 } },
      { selector: "edge", style: {
        width: "data(width)", "line-color": health, "target-arrow-color": health, "target-arrow-shape": "triangle",
        "arrow-scale": 0.8, "curve-style": "straight", opacity: 0.75, "font-size": 11, color: color("soft"),
        "min-zoomed-font-size": 7, "text-background-color": color("paper"), "text-background-opacity": 1,
        "text-background-padding": 2 } },
      { selector: "edge[label]", style: { label: "data(label)" } },
      { selector: "edge[?insecure]", style: { "line-style": "dashed" } },
      // Of many lines those that need somebody are to be seen.
      { selector: "edge.many", style: { opacity: (each) => (each.data("health") === "well" ? 0.25 : 0.9),
        "z-index": (each) => ["idle", "well", "degraded", "failing"].indexOf(each.data("health")) } },
      { selector: ".faint", style: { opacity: 0.12 } },
      { selector: "node:selected", style: { "border-color": color("accent"), "border-width": 4 } },
    ];
  }

  const cy = cytoscape({
    container: holder, style: style(), minZoom: 0.05, maxZoom: 3,
    textureOnViewport: true, boxSelectionEnabled: false,
    // The wheel scrolls the page; fingers, buttons and keys zoom.
    userZoomingEnabled: matchMedia("(pointer: coarse)").matches,
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cy.style(style()));

  const order = ["failing", "degraded", "well", "idle"];
  // The worst first, then by name.
  function compare(a, b) {
    return order.indexOf(a.data("health")) - order.indexOf(b.data("health")) || (a.id() < b.id() ? -1 : 1);
  }

  function place() {
    const isLarge = cy.nodes().length > LAYERED_NODES;
    cy.edges().toggleClass("many", isLarge);
    if (isLarge) {
      const places = columns();
      cy.layout({ name: "preset", positions: (node) => places.get(node.id()), fit: false }).run();
    } else {
      const nobody = callModelsThatNobodyCalls();
      cy.layout({ name: "dagre", rankDir: "LR", nodeSep: 12, rankSep: 190, edgeSep: 6, animate: false, fit: false,
        sort: (a, b) => (a.id() < b.id() ? -1 : 1) }).run();
      nobody.remove();
    }
    // As high as it takes to read the names, if that is not too high; a phone keeps what the style sheet says.
    const box = cy.elements().boundingBox();
    const scale = Math.min(1, holder.clientWidth / (box.w + 40));
    if (innerWidth > 640) holder.style.height = `${Math.round(Math.min(1100, Math.max(290, box.h * scale + 40)))}px`;
    cy.resize();
    cy.fit(undefined, 20);
    if (cy.zoom() > 1.1) {
      cy.zoom(1.1);
      cy.center();
    }
  }

  // A model without callers would be placed where callers are. Returns what is to be removed again.
  function callModelsThatNobodyCalls() {
    const models = cy.nodes("[kind = 'model']").filter((node) => node.incomers("edge").empty());
    if (models.empty() || cy.nodes("[kind = 'caller']").empty()) return cy.collection();
    const data = (id, rest) => ({ data: { id, label: "", width: 1, health: "idle", ...rest } });
    return cy.add([data("~nobody", { kind: "caller" }),
      ...models.map((model) => data(`~${model.id()}`, { source: "~nobody", target: model.id() }))]);
  }

  // Each kind on its own, in as many columns as it takes for all to be about as wide as the page.
  function columns() {
    const rows = Math.max(12, Math.ceil(Math.sqrt(cy.nodes().length * 3)));
    const places = new Map();
    let left = 0;
    for (const kind of ["caller", "model", "version"]) {
      const nodes = cy.nodes(`[kind = "${kind}"]`).sort(compare);
      const count = Math.max(1, Math.ceil(nodes.length / rows));
      const deep = Math.ceil(nodes.length / count);
      nodes.forEach((node, index) => {
        const row = index % deep;
        places.set(node.id(), { x: left + Math.floor(index / deep) * COLUMN, y: (row - deep / 2) * ROW });
      });
      left += (count - 1) * COLUMN + 2 * COLUMN;
    }
    return places;
  }

  function nodeData(node) {
    const rate = node.traffic.calls ? `  ${text.rate(node.traffic.rate)}/s` : "";
    const name = node.kind === "version" ? `version ${node.name}` : text.short(node.name);
    const lock = node.kind === "caller" && node.traffic.mtls !== null ? (node.traffic.mtls === 1 ? "locked" : "open") : null;
    const data = { id: node.id, kind: node.kind, name: node.name, label: name + rate, health: node.traffic.health };
    return lock === null ? data : { ...data, lock };
  }

  function edgeData(edge) {
    const isShare = edge.source.startsWith("model:");
    const width = isShare ? 1 + 7 * edge.share : 1 + Math.min(7, Math.log2(1 + edge.traffic.rate));
    const data = { id: edge.id, source: edge.source, target: edge.target, width, health: edge.traffic.health,
      insecure: !isShare && edge.traffic.mtls !== null && edge.traffic.mtls < 1 };
    return isShare && edge.share < 1 ? { ...data, label: `${Math.round(1000 * edge.share) / 10} %` } : data;
  }

  function put(group, data) {
    const found = cy.getElementById(data.id);
    if (found.empty()) {
      cy.add({ group, data });
      return true;
    }
    for (const name of ["lock", "label"]) if (!(name in data) && found.data(name) !== undefined) found.removeData(name);
    found.data(data);
    return false;
  }

  function center(elements) {
    const box = elements.boundingBox();
    return { x: (box.x1 + box.x2) / 2, y: (box.y1 + box.y2) / 2 };
  }

  return {
    cy,
    // Nodes and edges that are new or others than before, and ids of those that are gone.
    update(nodes, edges, removed) {
      let isOther = removed.length > 0;
      cy.batch(() => {
        for (const id of removed) cy.getElementById(id).remove();
        for (const node of nodes) isOther = put("nodes", nodeData(node)) || isOther;
        for (const edge of edges) isOther = put("edges", edgeData(edge)) || isOther;
      });
      if (isOther) place();
    },
    // Shows what has the text in its name, and its neighbours.
    find(wanted) {
      const found = cy.nodes().filter((node) => !wanted || node.data("name").toLowerCase().includes(wanted));
      const shown = found.closedNeighborhood();
      cy.batch(() => {
        cy.elements().removeClass("faint");
        cy.elements().not(shown).addClass("faint");
      });
      if (shown.nonempty()) cy.fit(shown, 20);
      if (cy.zoom() > 1.1) cy.zoom({ level: 1.1, position: center(shown) });
    },
    zoom(factor) {
      cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
    },
  };
}
