// Photos of the model's own archive as buttons: a click classifies one.

import { at, element } from "./common.js";

const MOST = 24; // as many as the server has; model.json may have been written by anybody

export function offerSamples(address, card, classify) {
  const count = Number.isInteger(card.samples) ? Math.min(Math.max(card.samples, 0), MOST) : 0;
  const section = at("samples");
  section.hidden = count === 0;
  section.querySelector("ul").replaceChildren(...Array.from({ length: count }, (_, i) => sample(address, i, classify)));
}

function sample(address, i, classify) {
  const [item, button, image] = [element("li", ""), element("button", ""), new Image()];
  button.type = "button";
  image.alt = `Sample photo ${i + 1}`;
  image.addEventListener("error", () => item.remove());
  image.src = `${address}/samples/${i}`;
  button.append(image);
  button.addEventListener("click", async () => {
    const content = await (await fetch(image.src)).blob();
    classify([new File([content], `sample-${i + 1}.jpg`, { type: "image/jpeg" })]);
  });
  item.append(button);
  return item;
}
