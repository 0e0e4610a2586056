// What was asked before, kept on this device only.
const KEY = "inflame-history", MOST = 24;

function read() {
  try { return JSON.parse(localStorage.getItem(KEY)) ?? []; } catch { return []; }
}

function write(list) {
  try { localStorage.setItem(KEY, JSON.stringify(list)); } catch { /* full or forbidden: then nothing is kept */ }
}

function told(one) { // as it stood there; of before, a label and a number
  return one.told ?? `${one.label} · ${one.percent} %`;
}

export function remember(answer) {
  const { id, told } = answer.dataset;
  const image = answer.querySelector("img.shown");
  const name = answer.dataset.name || answer.querySelector(".about blockquote")?.textContent.slice(0, 60) || "";
  const keep = (thumb) => { write([{ id, told, name, thumb, time: Date.now() }, ...read()].slice(0, MOST)); show(); };
  if (!image) return keep("");
  const draw = () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 88, height: 88 });
    const side = Math.min(image.naturalWidth, image.naturalHeight);
    const [left, top] = [(image.naturalWidth - side) / 2, (image.naturalHeight - side) / 2];
    canvas.getContext("2d").drawImage(image, left, top, side, side, 0, 0, 88, 88);
    keep(canvas.toDataURL("image/jpeg", 0.7));
  };
  return image.complete && image.naturalWidth ? draw() : image.addEventListener("load", draw, { once: true });
}

export function show() {
  const section = document.querySelector("#history"), list = section.querySelector("ul"), all = read();
  section.hidden = !all.length;
  list.replaceChildren(...all.map((one) => {
    const item = document.createElement("li");
    if (/^data:image\/jpeg;base64,[A-Za-z0-9+/=]*$/.test(one.thumb))
      item.append(Object.assign(new Image(), { src: one.thumb, alt: one.name || "", width: 44, height: 44 }));
    item.append(Object.assign(document.createElement("span"), { textContent: told(one) }));
    if (!one.thumb && one.name) item.append(Object.assign(document.createElement("q"), { textContent: one.name }));
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "×" });
    button.setAttribute("aria-label", section.dataset.remove.replace("{what}", told(one)));
    button.addEventListener("click", () => { write(read().filter((other) => other.id !== one.id)); show(); });
    item.append(button);
    return item;
  }));
}

document.querySelector("#history [data-clear]")?.addEventListener("click", () => { write([]); show(); });
