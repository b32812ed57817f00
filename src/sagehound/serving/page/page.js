// Sends each photo to the chosen model and shows its five most probable classes. Loads nothing from elsewhere.

const at = (id) => document.getElementById(id);
const models = at("models");
const TYPES = ["image/jpeg", "image/png", "image/webp"];
const percent = (share) => `${(100 * share).toFixed(1)} %`;

async function read(response) {
  const said = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(said.error?.message ?? `the server returned ${response.status}`);
  return said;
}

async function start() {
  try {
    const found = (await read(await fetch("/models"))).models;
    for (const model of found) models.add(new Option(model.modelName, model.modelName));
    at("choice").hidden = found.length < 2;
    if (found.length) await showCard();
    else say("No model is loaded: load one with POST /models.");
  } catch (error) {
    say(`The models cannot be listed: ${error.message}`);
  }
}

async function showCard() {
  const { card } = await read(await fetch(`/models/${encodeURIComponent(models.value)}`));
  at("model-card").href = `/models/${encodeURIComponent(models.value)}/card`;
  const test = card.metrics?.test ?? {};
  const interval = test.top1_interval ? `, 95 % interval ${test.top1_interval.map(percent).join(" to ")}` : "";
  const rows = {
    Name: models.value,
    Backbone: card.backbone,
    "Test accuracy": test.top1 === undefined ? "" : `${percent(test.top1)} of ${test.photos} photos${interval}`,
    "Label in the top five": test.top5 === undefined ? "" : percent(test.top5),
    "Trained on": card.data?.photos ? `${card.data.photos.train} photos of ${card.classes.length} classes` : "",
    "Photos are seen as": card.preprocessing?.size.join(" × ") + " pixels",
    "Pretrained weights": card.weights?.source,
    "Licence of these": card.weights?.licence ?? "not known",
    "Git revision": card.git?.revision.slice(0, 12),
  };
  at("card").replaceChildren(
    ...Object.entries(rows)
      .filter(([, value]) => value)
      .flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
  at("classes-title").textContent = `${card.classes.length} classes`;
  at("classes").replaceChildren(...card.classes.map((name) => element("li", name)));
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function placeholder() {
  const made = element("p", "No preview"); // the server reads types that not every browser can draw
  made.className = "placeholder";
  return made;
}

function say(text) {
  at("status").textContent = text;
}

async function classify(files) {
  const photos = [...files];
  await listed; // a photo may be chosen while the page still loads
  for (const [i, file] of photos.entries()) {
    say(`Reading ${photos.length > 1 ? `photo ${i + 1} of ${photos.length}` : file.name} …`);
    await show(file);
  }
}

async function show(file) {
  const item = at("answer").content.cloneNode(true).firstElementChild;
  const [title, image, body, caption, failed] = ["h3", "img", "tbody", "caption", ".error"].map((s) => item.querySelector(s));
  title.textContent = file.name || "pasted photo";
  image.src = URL.createObjectURL(file);
  for (const kind of ["load", "error"]) image.addEventListener(kind, () => URL.revokeObjectURL(image.src), { once: true });
  image.addEventListener("error", () => image.replaceWith(placeholder()), { once: true });
  try {
    const begun = performance.now();
    const said = await read(
      await fetch(`/models/${encodeURIComponent(models.value)}/invoke?top_k=5`, {
        method: "POST",
        headers: { "Content-Type": TYPES.includes(file.type) ? file.type : "application/x-image" },
        body: file,
      }),
    );
    const milliseconds = Math.round(performance.now() - begun);
    caption.textContent = `${milliseconds} ms`;
    for (const { label, probability } of said.top) {
      const row = body.insertRow();
      const bar = element("span", "");
      bar.className = "bar";
      bar.style.width = `${100 * probability}%`; // for the eye; the number beside it says the same
      row.insertCell().append(bar, label);
      row.insertCell().textContent = percent(probability);
    }
    say(`${title.textContent}: ${said.label}, ${percent(said.probability)}, in ${milliseconds} ms`);
  } catch (error) {
    item.querySelector("table").remove();
    failed.textContent = error.message;
    failed.hidden = false;
    say(`${title.textContent} could not be classified`);
  }
  at("answers").prepend(item);
}

const drop = at("drop");
at("files").addEventListener("change", async (event) => {
  const input = event.target;
  await classify(input.files);
  input.value = ""; // the same photo may be chosen again
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  classify(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) classify(event.clipboardData.files);
});
models.addEventListener("change", showCard);
const listed = start();
