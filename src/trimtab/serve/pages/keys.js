// Keys for the review page: every control says by data-key which one presses it. The page works without this.
"use strict";

const typing = (target) => target instanceof HTMLElement && target.matches("textarea, input, select");

function open(summary) {
  const details = summary.parentElement;
  details.open = true;
  details.querySelector("textarea").focus();
}

function press(control) {
  if (control.tagName === "SUMMARY") open(control);
  else control.click();
}

function save(text) {
  text.form.requestSubmit(text.parentElement.querySelector("button[value=better]"));
}

document.addEventListener("keydown", (event) => {
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.id === "text") save(event.target);
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const control = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]:not(:disabled)`);
  if (!control) return;
  event.preventDefault();
  press(control);
});

// A form is sent once, however often a key is struck.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});
