// The front page: pictures by drop, paste, choice, camera or drawing; the answer comes as a part of a page.
import { remember, show } from "./history.js";
import { pad } from "./draw.js";

const $ = (what, where = document) => where.querySelector(what);
const say = JSON.parse($("#words").textContent);
const form = $("#give"), answers = $("#answers"), busy = $("#busy");
const model = `?model=${encodeURIComponent(form.dataset.model)}`;
document.documentElement.classList.add("scripted");

let running = null; // what is being asked, to stop it

function tell(text, on = false) {
  busy.textContent = text;
  busy.classList.toggle("on", on);
  if (!on) return;
  const stop = Object.assign(document.createElement("button"), { type: "button", textContent: say.stop });
  stop.addEventListener("click", () => running?.abort());
  busy.append(stop);
}

function put(place, html) { // parts come from this server, escaped there
  place.innerHTML = html;
}

function problem(text) {
  const box = Object.assign(document.createElement("div"), { className: "problem" });
  box.setAttribute("role", "alert");
  box.append(Object.assign(document.createElement("h2"), { textContent: text }));
  return box;
}

function trouble(text) {
  answers.replaceChildren(problem(text));
}

async function post(path, body, signal) {
  const reply = await fetch(path, { method: "POST", body, signal, headers: { Accept: "text/html", "X-Part": "1" } });
  if (reply.headers.get("Content-Type")?.startsWith("text/html")) return { ok: reply.ok, html: await reply.text() };
  const { detail = say.offline, remedy = "" } = await reply.json().catch(() => ({}));
  const box = document.createElement("div"); // said by what stands before the pages
  box.append(problem(`${detail} ${remedy}`));
  return { ok: false, html: box.innerHTML };
}

// `fill` puts what is asked about into a form, once for the answer and once for the reasons.
async function ask(fill, again = () => null) {
  running?.abort();
  const mine = (running = new AbortController());
  const body = () => { const made = new FormData(); fill(made); if ($("#keep").checked) made.append("keep", "1"); return made; };
  tell(busy.dataset.say, true);
  try {
    const { ok, html } = await post(`/${model}`, body(), mine.signal);
    put(answers, html);
    tell(ok ? busy.dataset.done : "");
    const answer = $(".answer", answers);
    answers.scrollIntoView({ block: "nearest" });
    if (!answer) return;
    prepare(answer, again());
    remember(answer);
    show();
    await reasons(answer, body(), mine.signal);
  } catch (error) {
    if (error.name === "AbortError") { if (running === mine) tell(""); } else { tell(""); trouble(say.offline); }
  }
}

async function reasons(answer, body, signal) {
  const place = $("[data-why]", answer);
  place.classList.add("waiting");
  body.append("label", answer.dataset.label);
  const { ok, html } = await post(`/explain${model}`, body, signal);
  place.classList.remove("waiting");
  if (ok) put(place, html);
}

function prepare(answer, file) {
  const share = $("[data-share]", answer);
  if (!file) return;
  share.hidden = false;
  $("button", share).addEventListener("click", async () => {
    const body = new FormData();
    body.append("file", file);
    body.append("id", answer.dataset.id);
    put($("[role=status]", share), (await post("/share", body)).html);
  });
}

function send(files) {
  const pictures = [...files].filter((file) => file.size);
  const large = pictures.find((file) => file.size > Number(form.dataset.most));
  if (!pictures.length) return trouble(say.no_picture);
  if (pictures.length > Number(form.dataset.files)) return trouble(say.many.replace("{n}", form.dataset.files));
  if (large) return trouble(say.large.replace("{name}", large.name));
  const held = new DataTransfer(); // the lines of code below an answer read the field, however the picture came
  pictures.forEach((file) => held.items.add(file));
  $("#file").files = held.files;
  return ask((body) => pictures.forEach((file) => body.append("file", file, file.name)), () => pictures.length === 1 && pictures[0]);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("#text");
  if (text) ask((body) => body.append("text", text.value));
  else send($("#file").files);
});

for (const input of document.querySelectorAll("input[type=file]")) {
  input.addEventListener("click", () => { input.value = ""; }); // or choosing the same file again would change nothing
  input.addEventListener("change", () => { if (input.files.length) send(input.files); });
}

const drop = $("#drop");
if (drop) {
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].some((type) => type === "Files" || type === "text/uri-list");
  document.addEventListener("dragover", (event) => { if (carries(event)) { event.preventDefault(); drop.classList.add("over"); } });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    drop.classList.remove("over");
    send(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => { if (event.clipboardData?.files.length) send(event.clipboardData.files); });
  if (matchMedia("(hover: none)").matches) {
    $("#photo").disabled = false;
    $("#photo").hidden = $("label[for=photo]").hidden = false;
  } else if (navigator.mediaDevices?.getUserMedia) webcam();
}

function webcam() {
  const button = $("#camera"), dialog = $("#webcam"), video = $("video", dialog);
  let stream = null;
  const end = () => { stream?.getTracks().forEach((track) => track.stop()); stream = null; dialog.close(); };
  button.hidden = false;
  button.addEventListener("click", async () => {
    dialog.showModal();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
      video.srcObject = stream;
      await video.play();
    } catch { $(".note", dialog).textContent = say.no_camera; }
  });
  $("[data-close]", dialog).addEventListener("click", end);
  dialog.addEventListener("cancel", end);
  $("[data-take]", dialog).addEventListener("click", () => {
    if (!stream) return;
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    end();
    canvas.toBlob((blob) => send([new File([blob], "camera.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.92);
  });
}

const field = $("#pad");
if (field) {
  const button = $("#draw");
  button.hidden = false;
  button.addEventListener("click", () => { field.hidden = !field.hidden; button.setAttribute("aria-expanded", String(!field.hidden)); if (!field.hidden) field.scrollIntoView({ block: "nearest" }); });
  button.setAttribute("aria-expanded", "false");
  pad(field, (file) => send([file]));
}

$(".examples")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = event.submitter.value, picture = $("img", event.submitter);
  ask((body) => body.append("example", chosen), () => null);
  if (picture) picture.blur();
});

document.addEventListener("submit", async (event) => { // opinions, undo, ending a link: their answers take their place
  const small = event.target.closest("form[data-part]");
  if (!small) return;
  event.preventDefault();
  const place = small.closest(".opinion, .thanks, [role=status], section") ?? small;
  try {
    const { html } = await post(small.action, new FormData(small, event.submitter));
    put(place, html);
  } catch { trouble(say.offline); }
});

const first = $(".answer", answers);
if (first) first.scrollIntoView({ block: "nearest" });
show();
