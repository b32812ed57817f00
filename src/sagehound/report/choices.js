// keep, relabel or drop photos; the button downloads a CSV with the choices
const table = JSON.parse(document.getElementById("rows").textContent);
const chosen = table.rows.map(() => "keep");
const classes = new Set(table.classes);
const fields = new Map([...document.querySelectorAll(".choice")].map(set => [Number(set.dataset.row), set]));
const newClass = row => fields.get(row)?.querySelector("input[type=text]").value.trim() ?? table.rows[row][1];
const wrong = row => chosen[row] === "relabel" && !classes.has(newClass(row));

const show = () => {
  const count = action => chosen.filter(one => one === action).length;
  const unknown = chosen.findIndex((_, row) => wrong(row));
  for (const [row, set] of fields) {
    const text = set.querySelector("input[type=text]");
    text.hidden = chosen[row] !== "relabel";
    text.setAttribute("aria-invalid", String(wrong(row)));
  }
  document.getElementById("download").disabled = unknown >= 0;
  document.getElementById("chosen").textContent = unknown >= 0
    ? `choose a class of the set for each relabelled photo; "${newClass(unknown)}" is none`
    : `${count("drop")} to drop, ${count("relabel")} to relabel, ${count("keep")} to keep`;
};
for (const [row, set] of fields) {
  set.addEventListener("input", () => {
    chosen[row] = set.querySelector("input[type=radio]:checked").value;
    show();
  });
}
const cell = text => {
  const marked = /^'*[=+\-@\t\r\n]/.test(text) ? `'${text}` : text; // a spreadsheet would run a formula
  return /[",;\t\r\n]/.test(marked) ? `"${marked.replaceAll('"', '""')}"` : marked;
};
document.getElementById("download").addEventListener("click", () => {
  const lines = table.rows.map(([start], row) => `${start},${chosen[row]},${cell(newClass(row))}`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([[table.header, ...lines, ""].join("\n")], {type: "text/csv"}));
  link.download = table.name;
  link.click();
  URL.revokeObjectURL(link.href);
});
show();
