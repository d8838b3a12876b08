"use strict";
// Interaction of the cohort page: find and sort subjects, and highlight a subject in every scatter plot.
(() => {
  const table = document.querySelector("table.cohort");
  const find = document.getElementById("find");
  if (table && find) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const count = document.getElementById("found");
    find.closest(".find").hidden = false;
    find.addEventListener("input", () => {
      const wanted = find.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const hit = row.textContent.toLowerCase().includes(wanted);
        row.hidden = !hit;
        shown += hit;
      }
      count.textContent = wanted ? `${shown} of ${rows.length}` : "";
    });

    const numberOf = (text) => parseFloat(text.replace("\u2212", "-"));
    const valueOf = (row, place) => row.cells[place].textContent.trim();
    // An empty cell is a missing value: it stays at the end in either order.
    const compare = (a, b, down) => {
      if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
      const [m, n] = [numberOf(a), numberOf(b)];
      const order = Number.isNaN(m) || Number.isNaN(n) ? a.localeCompare(b) : m - n;
      return down ? -order : order;
    };
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        rows.sort((one, other) => compare(valueOf(one, place), valueOf(other, place), down));
        body.append(...rows);
      });
    });
  }

  const bySubject = new Map();
  for (const link of document.querySelectorAll(".scatters a")) {
    const page = link.getAttribute("href");
    bySubject.set(page, [...(bySubject.get(page) ?? []), link]);
  }
  const light = (event, on) => {
    const link = event.target.closest?.(".scatters a");
    for (const point of bySubject.get(link?.getAttribute("href")) ?? []) point.classList.toggle("lit", on);
  };
  for (const plots of document.querySelectorAll(".scatters")) {
    plots.addEventListener("mouseover", (event) => light(event, true));
    plots.addEventListener("mouseout", (event) => light(event, false));
  }
})();
