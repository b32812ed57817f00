// Small functions for all parts of the page.

const TYPES = ["image/jpeg", "image/png", "image/webp"];

export const at = (id) => document.getElementById(id);
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const typeOf = (file) => (TYPES.includes(file.type) ? file.type : "application/x-image");
export const shown = (name) => name.replaceAll("_", " ");

export async function read(response) {
  const said = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(said.error?.message ?? `the server returned ${response.status}`);
  return said;
}

export function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
