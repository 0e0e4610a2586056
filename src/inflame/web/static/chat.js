// Questions: the answer streams in, sentence by sentence, and is set as text.
const say = JSON.parse(document.querySelector("#words").textContent);
const form = document.querySelector("#chat"), talk = document.querySelector("#talk"), stop = document.querySelector("#stop");
let running = null, topic = form.elements.topic?.value ?? ""; // what the last answer was about

function make(tag, text = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const kind = lines.find((line) => line.startsWith("event: "))?.slice(7);
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (kind) yield { kind, data: JSON.parse(data || "{}") };
    }
  }
}

function draw(turn, told) {
  if (told.kind === "sentence") {
    const line = make("p", told.data.text);
    if (told.data.lang) line.lang = told.data.lang;
    for (const number of told.data.cites) {
      const link = Object.assign(make("a", String(number)), { href: `#${turn.id}-${number}` });
      const raised = make("sup");
      raised.append(link);
      line.append(" ", raised);
    }
    [...turn.querySelectorAll(".reply")].at(-1).append(line);
  } else if (told.kind === "sources" && told.data.sources.length) {
    topic = told.data.sources[0].about;
    const list = make("ol", "", "sources");
    for (const one of told.data.sources) {
      const item = make("li", `${one.about.replaceAll("_", " ")}: ${one.source} (${one.licence})`);
      item.id = `${turn.id}-${one.number}`;
      list.append(item);
    }
    turn.append(list);
  } else if (told.kind === "cut") { // what was worded ends here; the facts follow, with a badge of their own
    turn.append(make("p", say.cut, "problem cut"), make("div", "", "reply"));
  } else if (told.kind === "by") {
    turn.append(make("span", told.data.model ? say.by.replace("{model}", told.data.model) : say.offline, "badge"));
  }
}

function after(turn) {
  const row = make("div", "", "row");
  const copy = Object.assign(make("button", say.copy, "plain"), { type: "button" });
  copy.addEventListener("click", async () => {
    const said = [...turn.querySelectorAll(".reply")].map((part) => part.innerText).join("\n\n");
    await navigator.clipboard?.writeText(said);
    copy.textContent = say.copied;
  });
  row.append(copy);
  for (const verdict of ["good", "bad"]) {
    const button = Object.assign(make("button", say[verdict], "plain"), { type: "button" });
    button.addEventListener("click", async () => {
      const kept = await opinion({ verdict, model: form.dataset.model });
      row.replaceChildren(make("span", kept.feedback ? say.thanks : `${kept.detail} ${kept.remedy}`));
      if (kept.feedback) row.append(why(row, verdict, kept.feedback));
    });
    row.append(button);
  }
  turn.append(row);
}

async function opinion(told) {
  try {
    return await (await fetch("/v1/chat/feedback", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(told) })).json();
  } catch { return { detail: say.lost, remedy: "" }; }
}

function why(row, verdict, feedback) { // a reason, chosen or typed, for whoever likes to give one
  const asked = make("form", "", "row reasons");
  const send = async (reason) => { await opinion({ feedback, reason }); row.replaceChildren(make("span", say.thanks)); };
  asked.append(make("span", say.why, "note"));
  for (const [reason, text] of say.reasons[verdict]) {
    const button = Object.assign(make("button", text, "plain"), { type: "button" });
    button.addEventListener("click", () => send(reason));
    asked.append(button);
  }
  const own = Object.assign(make("input"), { maxLength: 300, required: true, autocomplete: "off", placeholder: say.own, ariaLabel: say.own });
  asked.append(own, make("button", say.send, "plain"));
  asked.addEventListener("submit", (event) => { event.preventDefault(); send(own.value.trim()); });
  return asked;
}

async function ask(question) {
  running?.abort();
  running = new AbortController();
  const turn = make("article", "", "turn");
  turn.id = `turn-${talk.childElementCount}`;
  turn.append(make("h2", question), make("div", "", "reply"));
  talk.append(turn);
  stop.hidden = false;
  let ended = false;
  try {
    const about = form.elements.about?.value ?? "", { model } = form.dataset;
    const reply = await fetch("/v1/chat", { method: "POST", signal: running.signal, headers: { "Content-Type": "application/json", Accept: "text/event-stream" }, body: JSON.stringify({ question, about, model, topic, language: document.documentElement.lang }) });
    if (!reply.ok) { const { detail, remedy } = await reply.json(); turn.querySelector(".reply").append(make("p", `${detail} ${remedy}`)); return; }
    for await (const told of events(reply)) {
      if (told.kind === "done") ended = true;
      draw(turn, told);
    }
    if (ended) after(turn);
    else turn.append(make("p", say.lost, "problem cut"));
  } catch (error) {
    if (error.name !== "AbortError") turn.append(make("p", say.lost, "problem cut"));
  } finally {
    stop.hidden = true;
    turn.scrollIntoView({ block: "nearest" });
  }
}

document.documentElement.classList.add("scripted");
stop.addEventListener("click", () => running?.abort());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const input = form.elements.q, question = input.value.trim();
  if (question) { ask(question); input.value = ""; }
});
document.querySelector(".suggested")?.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  ask(link.textContent);
});
