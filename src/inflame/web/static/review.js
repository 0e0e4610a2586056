// Keys press the buttons of the page: 1 to 9 a class, 0 none of them, S skip, U undo. A second press is no second word.
let sent = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.closest("input, select, textarea")) return;
  const button = document.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!button) return;
  event.preventDefault();
  button.click();
});

document.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});

addEventListener("pageshow", () => { sent = false; }); // also when a browser shows the page again from its memory
document.documentElement.classList.add("scripted");
