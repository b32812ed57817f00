// Sends each photo to the chosen model and shows its five most probable classes. Loads nothing from elsewhere.

import { offerCamera } from "./camera.js";
import { askForFeedback } from "./feedback.js";
import { markSeen, offerExplanation } from "./looking.js";
import { results, saveResults, showPrograms } from "./programs.js";
import { offerSamples } from "./samples.js";
import { at, element, percent, read, shown, typeOf } from "./common.js";

const models = at("models");
let card = null; // model.json of the chosen model
let takesFeedback = false;

async function start() {
  try {
    const listing = await read(await fetch("/models"));
    takesFeedback = listing.feedback;
    for (const model of listing.models) models.add(new Option(shown(model.modelName), model.modelName));
    at("choice").hidden = listing.models.length < 2;
    if (listing.models.length) await showCard();
    else say("No model is loaded: load one with POST /models.");
  } catch (error) {
    say(`The models cannot be listed: ${error.message}`);
  }
}

async function showCard() {
  const chosen = models.value;
  const described = await read(await fetch(address()));
  if (chosen !== models.value) return; // another model was chosen meanwhile
  card = described.card;
  at("model-card").href = `${address()}/card`;
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
  at("classes").replaceChildren(...card.classes.map((name) => element("li", shown(name))));
  showPrograms(models.value);
  offerSamples(address(), card, classify);
}

function address() {
  return `/models/${encodeURIComponent(models.value)}`;
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
  const [title, url, own] = [item.querySelector("h3"), address(), card]; // of the model that is chosen now
  title.textContent = file.name || "pasted photo";
  preview(item, file, own);
  try {
    const begun = performance.now();
    const said = await read(
      await fetch(`${url}/invoke?${question(own)}`, {
        method: "POST",
        headers: { "Content-Type": typeOf(file) },
        body: file,
      }),
    );
    const milliseconds = Math.round(performance.now() - begun);
    item.querySelector("caption").textContent = `${milliseconds} ms`;
    fill(item, said);
    offerExplanation(item, url, file, said);
    if (takesFeedback) askForFeedback(item, url, file, said, own.classes);
    results.push({ file: title.textContent, said });
    at("save").hidden = false;
    say(`${title.textContent}: ${shown(said.label)}, ${percent(said.probability)}, in ${milliseconds} ms`);
  } catch (error) {
    for (const part of ["table", ".explain"]) item.querySelector(part).remove();
    const failed = item.querySelector(".error");
    failed.textContent = error.message;
    failed.hidden = false;
    say(`${title.textContent} could not be classified`);
  }
  at("answers").prepend(item);
}

// What the model knows beside probabilities: whether a photo is like those it was trained on, and sets of classes.
function question(card) {
  const asked = new URLSearchParams({ top_k: 5 });
  if (card.unknown) asked.set("unknown", 1);
  if (card.sets?.["0.9"]) asked.set("coverage", 0.9);
  return asked;
}

function fill(item, said) {
  const body = item.querySelector("tbody");
  for (const { label, probability } of said.top) {
    const row = body.insertRow();
    const bar = element("span", "");
    bar.className = "bar";
    bar.style.width = `${100 * probability}%`; // for the eye; the number beside it says the same
    row.insertCell().append(bar, shown(label));
    row.insertCell().textContent = percent(probability);
  }
  const note = item.querySelector(".note");
  const others = (said.set ?? []).slice(0, 5).map(shown);
  if (said.unknown) note.textContent = "Unlike the photos that the model was trained on. It may be none of its classes.";
  else if (said.set?.length > 5) note.textContent = `Unsure: ${said.set.length} classes are possible; these are the most probable.`;
  else if (said.set?.length > 1) note.textContent = `Unsure: ${others.slice(0, -1).join(", ")} or ${others.at(-1)}.`;
  note.hidden = !note.textContent;
}

function preview(item, file, card) {
  const image = item.querySelector("img");
  image.src = URL.createObjectURL(file);
  image.addEventListener("load", () => {
    URL.revokeObjectURL(image.src);
    if (card) markSeen(item, card.preprocessing);
  }, { once: true });
  image.addEventListener("error", () => {
    URL.revokeObjectURL(image.src);
    const none = element("p", "No preview"); // the server reads types that not every browser can draw
    none.className = "placeholder";
    item.querySelector(".frame").replaceWith(none);
  }, { once: true });
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
models.addEventListener("change", () => showCard().catch((error) => say(`The model cannot be shown: ${error.message}`)));
at("save").addEventListener("click", saveResults);
offerCamera((photo) => classify([photo]), say);
const listed = start();
