// The part of a photo that the model sees, and what it looked at.

import { read, shown, typeOf } from "./common.js";

// The short side becomes `resize` pixels, and the centre of height x width is cropped; resize 0: all of it is seen.
export function markSeen(item, { size: [height, width], resize }) {
  const image = item.querySelector("img");
  const short = Math.min(image.naturalWidth, image.naturalHeight);
  const share = (seen, whole) => (resize ? Math.min((seen * short) / (resize * whole), 1) : 1);
  const across = share(width, image.naturalWidth);
  const down = share(height, image.naturalHeight);
  const seen = item.querySelector(".seen");
  Object.assign(seen.style, {
    left: `${50 * (1 - across)}%`,
    top: `${50 * (1 - down)}%`,
    width: `${100 * across}%`,
    height: `${100 * down}%`,
  });
  seen.hidden = false;
  item.querySelector("figcaption").hidden = across > 0.995 && down > 0.995;
}

export function offerExplanation(item, address, file, said) {
  const button = item.querySelector(".explain");
  const canvas = item.querySelector("canvas");
  if (!canvas) {
    button.remove(); // the photo has no preview to draw on
    return;
  }
  const caption = item.querySelector("figcaption");
  const plain = { text: caption.textContent, hidden: true };
  button.addEventListener("click", async () => {
    if (canvas.dataset.drawn) canvas.hidden = !canvas.hidden;
    else if (!(await explain(button, canvas, address, file, said, item))) return;
    else plain.hidden = caption.hidden;
    button.setAttribute("aria-pressed", String(!canvas.hidden));
    const meaning = `Yellow places speak for ${shown(said.label)}: without one, its probability falls.`;
    caption.textContent = canvas.hidden ? plain.text : meaning;
    caption.hidden = canvas.hidden && plain.hidden;
  });
}

async function explain(button, canvas, address, file, said, item) {
  button.disabled = true;
  try {
    const url = `${address}/explain?${new URLSearchParams({ label: said.label })}`;
    const { importance } = await read(await fetch(url, { method: "POST", headers: { "Content-Type": typeOf(file) }, body: file }));
    draw(canvas, importance);
    return true;
  } catch (error) {
    const failed = item.querySelector(".error");
    failed.textContent = error.message;
    failed.hidden = false;
    return false;
  } finally {
    button.disabled = false;
  }
}

// A pixel for each place; the browser smooths them. Yellow to red are the stronger places, the others stay clear.
function draw(canvas, importance) {
  canvas.width = importance[0].length;
  canvas.height = importance.length;
  const values = importance.flat();
  const most = Math.max(...values, 1e-6);
  const pixels = new ImageData(canvas.width, canvas.height);
  values.forEach((value, i) => {
    const share = Math.max(value, 0) / most;
    pixels.data.set([255, 225 - 110 * share, 0, 200 * share], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.dataset.drawn = "yes";
  canvas.hidden = false;
}
