// What the pages gain from a script: they look again by themselves, questions come in a dialog, keys move through lists.
// Everything works without it too. Nothing is made from text: what the server sends has been escaped there, and is parsed
// as a document that runs no script.
"use strict";
(() => {
  const body = document.body;

  // Look again

  let timer = 0, fails = 0;

  const every = () => Number(document.querySelector("[data-live]")?.dataset.live || 0);
  const busy = () =>
    document.hidden || document.querySelector("dialog[open], [data-rows] input:checked") || !getSelection().isCollapsed;

  function state(word, text) {
    body.classList.toggle("live", word !== "");
    body.classList.toggle("lost", word === "lost");
    body.classList.toggle("resting", word === "resting");
    const says = document.querySelector(".pulse span");
    if (says && says.textContent !== text) says.textContent = text;
  }

  async function look() {
    if (!every()) return state("", "");
    if (busy()) {
      state("resting", "Resting");
      return again(500);
    }
    const began = location.href;
    try {
      const answer = await fetch(began, { headers: { "x-console-part": "1" }, signal: AbortSignal.timeout(15000) });
      if (answer.status === 401) return location.reload();
      const found = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (busy() || location.href !== began) return again(500);
      for (const id of ["around", "live"]) {
        const ours = document.getElementById(id), theirs = found.getElementById(id);
        if (ours && theirs) become(ours, theirs);
      }
      fails = 0;
      mark();
      state(answer.ok ? "live" : "lost", answer.ok ? "Live" : "No answer, looking again");
    } catch {
      fails += 1;
      state("lost", "No answer, looking again");
    }
    again(every() * Math.min(8, 1 + fails));
  }

  function again(ms) {
    clearTimeout(timer);
    timer = setTimeout(look, ms);
  }

  // Make one tree the other, touching only what differs: focus, open details and scroll stay as they are.
  function become(ours, theirs) {
    for (const { name, value } of [...theirs.attributes]) {
      if (name !== "open" && ours.getAttribute(name) !== value) ours.setAttribute(name, value);
    }
    for (const { name } of [...ours.attributes]) {
      if (!theirs.hasAttribute(name) && !["open", "hidden", "tabindex"].includes(name) && name !== "class") ours.removeAttribute(name);
    }
    if (!theirs.hasAttribute("class") && ours.hasAttribute("class")) ours.removeAttribute("class");
    const named = new Map([...ours.children].filter((one) => one.id).map((one) => [one.id, one]));
    let at = ours.firstChild;
    for (const next of [...theirs.childNodes]) {
      let match = next.id ? named.get(next.id) : at;
      if (next.id && match && match !== at) ours.insertBefore(match, at);
      if (!match || match.nodeName !== next.nodeName || (match.id || "") !== (next.id || "")) {
        ours.insertBefore(document.importNode(next, true), at);
        continue;
      }
      if (match.nodeType === Node.ELEMENT_NODE) become(match, next);
      else if (match.nodeValue !== next.nodeValue) match.nodeValue = next.nodeValue;
      at = match.nextSibling;
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  document.addEventListener("visibilitychange", () => !document.hidden && again(50));

  // Questions

  const dialog = document.getElementById("ask");

  async function ask(href) {
    try {
      const answer = await fetch(href, { headers: { "x-console-part": "1" } });
      const found = new DOMParser().parseFromString(await answer.text(), "text/html");
      const form = found.querySelector("form.ask");
      if (!answer.ok || !form) return location.assign(href);
      dialog.replaceChildren(document.importNode(form, true));
      recall(dialog);
      dialog.showModal();
      (dialog.querySelector("input:not([type=hidden])") || dialog.querySelector("button")).focus();
    } catch {
      location.assign(href);
    }
  }

  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  // A name that was given once is offered again.
  function recall(within) {
    for (const field of within.querySelectorAll("[data-keep]")) {
      try {
        field.value ||= localStorage.getItem(`bridge.${field.dataset.keep}`) || "";
      } catch { /* the browser keeps nothing */ }
    }
  }

  document.addEventListener("submit", (event) => {
    for (const field of event.target.querySelectorAll("[data-keep]")) {
      try {
        localStorage.setItem(`bridge.${field.dataset.keep}`, field.value);
      } catch { /* the browser keeps nothing */ }
    }
    if (event.target.matches("[data-ask]")) {
      event.preventDefault();
      const marked = new URLSearchParams(new FormData(event.target));
      if (marked.size) ask(`${event.submitter?.formAction || event.target.action}?${marked}`);
      return;
    }
    if (event.target.method === "get") {
      for (const field of event.target.querySelectorAll("input, select")) field.disabled = field.value === "";
      return;
    }
    for (const button of event.target.querySelectorAll("button")) button.disabled = true; // once
  });
  window.addEventListener("pageshow", () => {
    for (const one of document.querySelectorAll("button:disabled, input:disabled, select:disabled")) one.disabled = false;
  });

  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-ask]");
    if (link && !event.metaKey && !event.ctrlKey && !event.shiftKey) {
      event.preventDefault();
      return ask(link.href);
    }
    if (event.target.closest("[data-close]") && dialog.open) {
      event.preventDefault();
      return dialog.close();
    }
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      await navigator.clipboard.writeText(copy.dataset.copy);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
      return;
    }
    const row = event.target.closest("[data-rows] tbody tr");
    if (row && !event.target.closest("a, button, input") && getSelection().isCollapsed) row.querySelector("a")?.click();
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
    if (event.target.matches("[data-all]")) {
      for (const box of event.target.closest("table").querySelectorAll("tbody input[type=checkbox]")) box.checked = event.target.checked;
    }
  });

  // Keys

  let at = "", going = false;

  const rows = () => [...document.querySelectorAll("[data-rows] tbody tr")];

  function mark() {
    for (const row of rows()) row.classList.toggle("at", row.id !== "" && row.id === at);
  }

  function move(by) {
    const all = rows();
    if (!all.length) return;
    const now = all.findIndex((row) => row.id === at);
    const next = all[now < 0 ? (by > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, now + by))];
    at = next.id;
    mark();
    next.scrollIntoView({ block: "nearest" });
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape" && typing) return typing.blur();
    if (typing || event.metaKey || event.ctrlKey || event.altKey || dialog.open) return;
    if (going) {
      going = false;
      const to = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
      if (to) location.assign(to.href);
      return;
    }
    switch (event.key) {
      case "/": {
        event.preventDefault();
        const search = document.querySelector("[data-search]");
        if (search) search.select();
        else location.assign("/console/requests");
        break;
      }
      case "j": move(1); break;
      case "k": move(-1); break;
      case "Enter":
        if (at && event.target === body) document.getElementById(at)?.querySelector("a")?.click();
        break;
      case "g":
        going = true;
        setTimeout(() => (going = false), 1200);
        break;
    }
  });

  for (const box of document.querySelectorAll("[data-all]")) box.hidden = false;
  if (navigator.clipboard) for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
  document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  recall(document);
  if (every()) {
    state("live", "Live");
    again(every());
  }
})();
