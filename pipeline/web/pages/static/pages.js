// Scripts of the pages beside htmx: the connection state, open forms, selection counts.
"use strict";

(() => {
  const connection = () => document.getElementById("connection");

  const say = (state, text) => {
    const shown = connection();
    if (!shown || shown.dataset.state === state) return;
    shown.dataset.state = state;
    shown.querySelector(".dot").className = `dot ${state}`;
    shown.querySelector(".text").textContent = text;
  };

  let source = null;
  document.addEventListener("htmx:sseOpen", (event) => {
    source = event.detail.source;
    say("live", "live");
  });
  document.addEventListener("htmx:sseError", () => say("lost", "connection lost, trying again"));

  // Browsers open six connections to a host: a hidden page closes its stream, and reloads when it is shown.
  const UNSEEN = 30_000;
  let giveBack = null;

  document.addEventListener("visibilitychange", () => {
    if (!source) return;
    clearTimeout(giveBack);
    if (document.hidden) giveBack = setTimeout(() => source.close(), UNSEEN);
    else if (source.readyState === EventSource.CLOSED) location.reload();
  });

  // ─── An action may take seconds: show that it runs, and do not send it twice ───

  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (document.body.hasAttribute("aria-busy")) event.preventDefault();
    document.body.setAttribute("aria-busy", "true");
  });
  window.addEventListener("pageshow", () => document.body.removeAttribute("aria-busy"));

  // ─── Sheets: Escape and a click elsewhere close them ───

  const sheets = () => document.querySelectorAll("details.act[open]");

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const sheet of sheets()) {
      sheet.open = false;
      sheet.querySelector("summary").focus();
    }
  });
  document.addEventListener("click", (event) => {
    for (const sheet of sheets()) if (!sheet.contains(event.target)) sheet.open = false;
  });

  // Updates pause while a form is open, while text is selected, and between the press and the release of a
  // click: the pressed element must stay.
  let isPressed = false;
  document.addEventListener("pointerdown", () => { isPressed = true; });
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { isPressed = false; });

  const isHeld = (region) => {
    if (isPressed) return true;
    const selection = document.getSelection();
    return region.querySelector("details.act[open]") || (!selection.isCollapsed && selection.containsNode(region, true));
  };

  for (const step of ["htmx:beforeRequest", "htmx:beforeSwap", "htmx:sseBeforeMessage"]) {
    document.addEventListener(step, (event) => {
      if (isHeld(event.detail.elt ?? event.target)) event.preventDefault();
    });
  }

  // ─── Selecting ───

  const count = (form) => {
    const boxes = [...form.querySelectorAll("input[name='ids']")];
    const chosen = boxes.filter((box) => box.checked).length;
    const all = form.querySelector("[data-all]");
    if (all) {
      all.checked = chosen > 0 && chosen === boxes.length;
      all.indeterminate = chosen > 0 && chosen < boxes.length;
    }
    for (const shown of form.querySelectorAll("[data-chosen]")) shown.textContent = chosen;
    for (const button of form.querySelectorAll("[data-needs-chosen]")) button.disabled = chosen === 0;
  };

  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-select]");
    if (!form) return;
    if (event.target.matches("[data-all]")) {
      for (const box of form.querySelectorAll("input[name='ids']")) box.checked = event.target.checked;
    }
    count(form);
  });
  for (const form of document.querySelectorAll("form[data-select]")) count(form);
})();
