"use strict";
// Verdicts of a reader: stored in the browser, set on a subject's page, listed and exported on the cohort page.
(() => {
  const source = document.getElementById("verdict-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const find = (id) => document.getElementById(id);
  const key = `cmnet-verdicts-${data.store}`, shared = `cmnet-shared-${data.store}`, settings = "cmnet-reading";
  const WORDS = ["accept", "correct", "exclude"];

  // Some browsers store nothing for pages from disk and raise an exception.
  const read = (name) => { try { return JSON.parse(localStorage.getItem(name)) ?? {}; } catch { return {}; } };
  const write = (name, value) => { try { localStorage.setItem(name, JSON.stringify(value)); return true; } catch { return false; } };

  const own = Object.create(null);
  const isReading = (one) => one && typeof one === "object" && ["", ...WORDS].includes(one.verdict);
  const merge = (others) => {
    for (const [name, one] of Object.entries(others ?? {})) {
      if (isReading(one) && !(own[name]?.at > one.at)) own[name] = one;
    }
  };
  merge(read(key));

  // A browser that stores each file's values apart gets the verdicts in the links between the pages instead.
  const passed = new URLSearchParams(location.hash.slice(1)).get("verdicts");
  if (passed) {
    try { merge(JSON.parse(passed)); } catch { /* The address was changed by hand. */ }
    history.replaceState(null, "", location.pathname + location.search);
    write(key, own);
  }
  const isShared = () => read(shared).seen === true;
  const pass = (link) => {
    const page = link.getAttribute("href").split("#")[0];
    if (!isShared() && Object.keys(own).length) link.setAttribute("href", `${page}#${new URLSearchParams({ verdicts: JSON.stringify(own) })}`);
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (link && /^[^:/?#]+\.html(#.*)?$/.test(link.getAttribute("href"))) pass(link);
  }, true);

  // The verdict that holds: the later of the reader's own and of the one that the run has.
  const verdictOf = (name) => {
    const [mine, stored] = [own[name], data.readings[name]];
    return (mine && stored ? (mine.date >= stored.date ? mine : stored) : mine ?? stored) ?? { verdict: "" };
  };
  const text = (one) => [one.verdict, one.reader, one.date].filter(Boolean).join(", ");

  const form = find("reading");
  if (form) {
    const name = data.name, choices = [...form.querySelectorAll("input[name=verdict]")];
    const reader = find("reader"), remark = find("remark"), kept = find("kept"), keys = find("shortcuts");
    const show = () => {
      const one = verdictOf(name);
      for (const choice of choices) choice.checked = choice.value === one.verdict;
      remark.value = one.remark ?? "";
    };
    const keep = () => {
      const now = new Date(), verdict = choices.find((choice) => choice.checked)?.value ?? "";
      merge(read(key));
      own[name] = { verdict, reader: reader.value.trim(), date: now.toISOString().slice(0, 10), remark: remark.value.trim(), at: now.getTime() };
      const stored = write(key, own);
      write(settings, { ...read(settings), reader: reader.value.trim(), keys: keys.checked });
      kept.textContent = `${verdict ? `Verdict: ${verdict}` : "No verdict"}. ${stored ? "Stored in this browser; the worklist exports it." : "This browser does not store it: download the table from the worklist before you close this window."}`;
    };
    const before = read(settings);
    reader.value = before.reader ?? "";
    keys.checked = before.keys !== false;
    for (const choice of choices) choice.addEventListener("change", keep);
    for (const field of [reader, remark]) field.addEventListener("change", () => { if (verdictOf(name).verdict) keep(); });
    reader.addEventListener("change", () => write(settings, { ...read(settings), reader: reader.value.trim() }));
    keys.addEventListener("change", () => write(settings, { ...read(settings), keys: keys.checked }));

    const choose = (value) => { for (const choice of choices) choice.checked = choice.value === value; keep(); };
    const follow = (id) => find(id)?.click();
    const acts = {
      a: () => choose("accept"), c: () => choose("correct"), x: () => choose("exclude"),
      n: () => follow("next"), p: () => follow("previous"), w: () => follow("to-worklist"), r: () => remark.focus(),
    };
    document.addEventListener("keydown", (event) => {
      const act = acts[event.key.toLowerCase()];
      const typing = event.target.closest?.("input:not([type=radio]):not([type=checkbox]):not([type=range]), textarea, select");
      if (event.key === "Escape" && typing) { typing.blur(); return; }
      if (!act || typing || !keys.checked || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      act();
    });
    show();
    form.hidden = false;
  }

  const controls = find("verdicts");
  if (controls) {
    write(shared, { seen: true });
    const rows = [...document.querySelectorAll("#worklist-table tr[data-name]")];
    const all = () => [...new Set([...Object.keys(data.readings), ...Object.keys(own)])].filter((name) => verdictOf(name).verdict);
    const update = () => {
      merge(read(key));
      for (const row of rows) row.querySelector(".verdict").textContent = text(verdictOf(row.dataset.name));
      const count = all().length, next = rows.find((row) => row.querySelector("a") && !verdictOf(row.dataset.name).verdict);
      find("progress").textContent = `${count} of ${data.size} ${data.size === 1 ? "subject has" : "subjects have"} a verdict.`;
      find("start").hidden = !next;
      if (next) find("start").setAttribute("href", next.querySelector("a").getAttribute("href"));
      find("download").disabled = count === 0;
    };
    // A spreadsheet must not run a cell as a formula.
    const cell = (value) => {
      const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
      return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    find("download").addEventListener("click", () => {
      const lines = all().map((name) => {
        const one = verdictOf(name);
        return [name, one.verdict, one.reader ?? "", one.date ?? "", one.remark ?? ""].map(cell).join(",");
      });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([["id,verdict,reader,date,remark", ...lines, ""].join("\n")], { type: "text/csv" }));
      link.download = "verdicts.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    update();
    addEventListener("pageshow", update);
    addEventListener("storage", update);
    controls.hidden = false;
    if (passed) find("worklist").scrollIntoView();
  }
})();
