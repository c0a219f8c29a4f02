/* Tables that sort when you press a column's heading, and that the keyboard can scroll. No library. */
"use strict";

function valueOf(cell) {
  const text = cell.textContent.trim();
  const number = parseFloat(text);
  return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
}

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // empty cells stay last
    const order = a < b ? -1 : a > b ? 1 : 0;
    return descending ? -order : order;
  });
  body.append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.className = "sort";
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const numbers = [...table.tBodies[0].rows].some((row) => typeof valueOf(row.cells[column]) === "number");
      const before = heading.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numbers;
      table.querySelectorAll("th[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

function start() {
  const tables = [...document.querySelectorAll(".md-typeset table:not([class])")];
  if (location.pathname.includes("leaderboard")) tables.filter((t) => t.tHead && t.rows.length > 8).forEach(makeSortable);
  document.querySelectorAll(".md-typeset pre > code").forEach((code) => { code.tabIndex = 0; });
  document.querySelectorAll(".md-typeset th:empty").forEach((heading) => {
    heading.innerHTML = '<span class="unseen">Row</span>';
  });
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  const wide = () => {
    document.querySelectorAll(".md-typeset__scrollwrap").forEach((each, number) => {
      each.tabIndex = 0;
      each.setAttribute("role", "region");
      each.setAttribute("aria-label", `Table ${number + 1}, scrolls sideways`);
    });
    document.querySelectorAll(".md-code__nav").forEach((each, number) => {
      each.setAttribute("aria-label", `Code block ${number + 1}`);
    });
  };
  wide();
  window.setTimeout(wide, 500); // the theme wraps tables after us
  document.querySelectorAll("figure.plot").forEach((figure) => window.drawPlot(figure));
}

document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
