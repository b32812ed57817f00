// Asks whether a result is right, if the server keeps the photos.

import { read, shown, typeOf } from "./common.js";

export function askForFeedback(item, address, file, said, classes) {
  const form = item.querySelector(".feedback");
  const choice = form.querySelector("select");
  for (const name of classes) if (name !== said.label) choice.add(new Option(shown(name), name));
  const none = new Option("none of them");
  choice.add(none);
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector(".right").addEventListener("click", () => send(said.label));
  const wrong = form.querySelector(".wrong"); // a button, because arrow keys change the choice one by one
  choice.addEventListener("change", () => (wrong.disabled = choice.selectedIndex === 0));
  wrong.addEventListener("click", () => send(choice.selectedOptions[0] === none ? null : choice.value));

  async function send(right) {
    const thanks = item.querySelector(".thanks");
    const controls = [...form.querySelectorAll("button, select")];
    for (const control of controls) control.disabled = true;
    try {
      const asked = right === null ? "" : `?${new URLSearchParams({ right })}`;
      const call = { method: "POST", headers: { "Content-Type": typeOf(file) }, body: file };
      await read(await fetch(`${address}/feedback${asked}`, call));
      form.hidden = true;
      thanks.textContent = `Thank you: saved as ${right === null ? "none of the classes" : shown(right)}.`;
    } catch (error) {
      thanks.textContent = `Not saved: ${error.message}`;
      for (const control of controls) control.disabled = false;
    }
  }
}
