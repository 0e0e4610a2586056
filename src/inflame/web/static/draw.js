// A field to draw in. What is drawn is cut out and given the same margin and colour as the pictures of the training.
const PAUSE = 700;

export function pad(field, send) {
  const canvas = field.querySelector("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
  const light = field.dataset.light === "1", fill = Number(field.dataset.fill), side = Number(field.dataset.side);
  const ground = light ? "#000" : "#fff", ink = light ? "#fff" : "#000";
  let last = null, timer = 0;

  function wipe() {
    pen.fillStyle = ground;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    clearTimeout(timer);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
  }

  function line(event) {
    if (!last) return;
    const next = place(event);
    Object.assign(pen, { strokeStyle: ink, lineWidth: Math.max(22, 300 / side), lineCap: "round", lineJoin: "round" });
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...next);
    pen.stroke();
    last = next;
  }

  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); last = place(event); line(event); clearTimeout(timer); });
  canvas.addEventListener("pointermove", line);
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => { if (last) timer = setTimeout(give, PAUSE); last = null; });
  field.querySelector("[data-clear]").addEventListener("click", wipe);
  wipe();

  function give() {
    const { data, width, height } = pen.getImageData(0, 0, canvas.width, canvas.height);
    let [left, top, right, bottom] = [width, height, 0, 0];
    for (let i = 0; i < width * height; i++) {
      if ((data[4 * i] > 127) !== light) continue;
      const x = i % width, y = Math.floor(i / width);
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
    if (right <= left) return;
    const longest = Math.max(right - left, bottom - top) + 1, whole = longest / fill;
    const size = 8 * side, scale = size / whole; // first large, then made small in halves: as a scanner would see it
    const out = Object.assign(document.createElement("canvas"), { width: size, height: size }), to = out.getContext("2d");
    to.fillStyle = ground;
    to.fillRect(0, 0, size, size);
    to.imageSmoothingQuality = "high";
    to.drawImage(canvas, left, top, right - left + 1, bottom - top + 1,
      (size - (right - left + 1) * scale) / 2, (size - (bottom - top + 1) * scale) / 2, (right - left + 1) * scale, (bottom - top + 1) * scale);
    let now = out;
    while (now.width > side) {
      const half = Object.assign(document.createElement("canvas"), { width: now.width / 2, height: now.width / 2 });
      half.getContext("2d").drawImage(now, 0, 0, half.width, half.height);
      now = half;
    }
    now.toBlob((blob) => send(new File([blob], "drawing.png", { type: "image/png" })), "image/png");
  }
}
