// The calls of this server from programs, and the results as a file.

import { at } from "./common.js";

export const results = []; // { file, said } of each photo, oldest first

export function showPrograms(model) {
  const url = `${location.origin}/models/${encodeURIComponent(model)}/invoke`;
  at("curl").textContent = `curl --data-binary @dog.jpg -H "Content-Type: image/jpeg" "${url}?top_k=3"`;
  at("python").textContent = `import json
import urllib.request

with open("dog.jpg", "rb") as photo:
    headers = {"Content-Type": "image/jpeg"}
    request = urllib.request.Request("${url}", photo.read(), headers)
with urllib.request.urlopen(request) as response:
    print(json.load(response)["top"])
`;
}

for (const button of document.querySelectorAll("[data-copies]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const text = at(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // without https the browser allows no copy
      button.textContent = "Selected: copy it with Ctrl-C";
    }
    setTimeout(() => (button.textContent = label), 3000);
  });
}

export function saveResults() {
  const rows = results.map(({ file, said }) => [file, said.label, said.probability]);
  const text = [["file", "label", "probability"], ...rows].map((row) => row.map(field).join(",") + "\r\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "results.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// A spreadsheet would run a text that begins like a formula; a ' keeps it a text. The rules are those of spreadsheet.py.
function field(value) {
  const text = typeof value === "string" && /^'*[=+\-@\t\r\n]/.test(value) ? `'${value}` : String(value);
  return /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
