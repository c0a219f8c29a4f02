/* Accuracy against image tokens, drawn from leaderboard.json as SVG: point at a line to read it, press a name to hide it. */
"use strict";

(function () {
  const BOX = { left: 60, top: 15, right: 845, bottom: 440, width: 860, height: 490 };
  const HUES = ["#d0021b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#3a96d2", "#8b5fbf", "#7f7f7f", "#a6761d"];

  function element(name, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.append(...children);
    return made;
  }

  function lines(board) {
    const found = new Map();
    board.entries.forEach((entry) => {
      if (!found.has(entry.method)) found.set(entry.method, []);
      found.get(entry.method).push(entry);
    });
    const least = (entries) => Math.min(...entries.map((each) => each.accuracy));
    return [...found].map(([name, entries]) => [name, entries.sort((a, b) => a.image_tokens - b.image_tokens)])
      .sort(([, a], [, b]) => least(b) - least(a));
  }

  function scales(board) {
    const tokens = board.entries.map((each) => each.image_tokens);
    const values = board.entries.map((each) => each.accuracy);
    const [first, last] = [Math.log(Math.min(...tokens)) - 0.08, Math.log(Math.max(...tokens)) + 0.08];
    // Mistakes on a logarithmic scale keep good methods apart.
    const mistakes = (value) => -Math.log(1 - value);
    const [bottom, top] = [mistakes(Math.min(...values)) - 0.05, mistakes(Math.max(...values, board.full.accuracy)) + 0.12];
    return {
      x: (count) => BOX.left + ((Math.log(count) - first) / (last - first)) * (BOX.right - BOX.left),
      y: (value) => BOX.bottom - ((mistakes(value) - bottom) / (top - bottom)) * (BOX.bottom - BOX.top),
    };
  }

  function axes(svg, board, scale) {
    [10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 88, 90, 92, 94, 96, 98, 99].forEach((mark) => {
      const y = scale.y(mark / 100);
      if (y < BOX.top || y > BOX.bottom) return;
      svg.append(element("line", { class: "grid", x1: BOX.left, x2: BOX.right, y1: y, y2: y }));
      svg.append(element("text", { x: BOX.left - 8, y: y + 5, "text-anchor": "end" }, `${mark}%`));
    });
    [...new Set(board.entries.map((each) => each.budget))].forEach((count) => {
      svg.append(element("text", { x: scale.x(count), y: BOX.bottom + 20, "text-anchor": "middle" }, String(count)));
    });
    svg.append(element("text", { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 44, "text-anchor": "middle" }, "image tokens"));
    const full = scale.y(board.full.accuracy);
    svg.append(element("line", { x1: BOX.left, x2: BOX.right, y1: full, y2: full, stroke: "currentColor", "stroke-dasharray": "2 4" }));
  }

  function curve(name, entries, hue, scale, say) {
    const points = entries.map((each) => `${scale.x(each.image_tokens)},${scale.y(each.accuracy)}`).join(" ");
    const group = element("g", { class: "method" }, element("polyline", { points, stroke: hue }));
    entries.forEach((each) => {
      group.append(element("circle", { cx: scale.x(each.image_tokens), cy: scale.y(each.accuracy), r: 5, fill: hue }));
    });
    const shown = entries.map((each) => `${(100 * each.accuracy).toFixed(1)}% at ${each.budget}`).join(", ");
    group.addEventListener("pointerenter", () => say(`${name}: ${shown}`));
    return [group, `${name}: ${shown}`];
  }

  function draw(figure, board) {
    const said = document.createElement("p");
    said.className = "said";
    said.setAttribute("aria-live", "polite");
    said.textContent = `All tokens: ${(100 * board.full.accuracy).toFixed(1)}% (dotted line). Point at a line, or go through the names.`;
    const svg = element("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": "Accuracy against image tokens, a line a method" });
    const names = document.createElement("ul");
    names.className = "names";
    const scale = scales(board);
    axes(svg, board, scale);
    lines(board).forEach(([name, entries], number) => {
      const hue = HUES[number % HUES.length];
      const [group, text] = curve(name, entries, hue, scale, (words) => { said.textContent = words; });
      svg.append(group);
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.style.setProperty("--hue", hue);
      button.setAttribute("aria-pressed", "true");
      const near = (on) => { group.classList.toggle("near", on); if (on) said.textContent = text; };
      ["pointerenter", "focus"].forEach((event) => button.addEventListener(event, () => near(true)));
      ["pointerleave", "blur"].forEach((event) => button.addEventListener(event, () => near(false)));
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        group.style.display = on ? "" : "none";
      });
      const item = document.createElement("li");
      item.append(button);
      names.append(item);
    });
    figure.replaceChildren(svg, said, names);
  }

  window.drawPlot = (figure) => {
    const base = document.querySelector("script[src*='assets/plot.js']").src;
    fetch(new URL("leaderboard.json", base)).then((reply) => reply.json()).then((board) => draw(figure, board))
      .catch(() => {}); // the static plot stays
  };
})();
