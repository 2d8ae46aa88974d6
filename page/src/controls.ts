// Controls built from the JSON schema that the server sends: a new setting there needs no change here.

export interface Control {
  title: string;
  type: string | string[];
  minimum?: number;
  maximum?: number;
  enum?: string[];
  labels?: string[];
  minItems?: number;
  description?: string;
  default: unknown;
  properties?: Record<string, Control>;
}

export type Change = Record<string, unknown>;

export function build(form: HTMLFormElement, controls: Record<string, Control>, say: (change: Change) => void): void {
  form.replaceChildren();
  for (const [name, control] of Object.entries(controls)) {
    if (control.properties) {
      for (const [inner, one] of Object.entries(control.properties)) {
        form.append(field(`${name}.${inner}`, one, (value) => say({ [name]: { [inner]: value } })));
      }
    } else form.append(field(name, control, (value) => say({ [name]: value })));
  }
}

export function show(form: HTMLFormElement, settings: Record<string, unknown>): void {
  for (const element of form.elements) {
    const input = element as HTMLInputElement | HTMLSelectElement;
    if (!input.name || input === document.activeElement) continue;
    const [outer = "", inner] = input.name.split(".");
    const value = inner ? (settings[outer] as Record<string, unknown>)[inner] : settings[outer];
    if (input instanceof HTMLInputElement && input.type === "checkbox") input.checked = Boolean(value);
    else input.value = value === undefined || value === null ? "" : Array.isArray(value) ? value.join(" ") : String(value);
    mark(input);
  }
}

function mark(input: HTMLElement): void {
  const output = input.parentElement?.querySelector("output");
  if (output && "value" in input) output.textContent = String(input.value);
}

function field(name: string, control: Control, changed: (value: unknown) => void): HTMLElement {
  const label = document.createElement("label");
  const title = document.createElement("span");
  title.textContent = control.title;
  const kinds = Array.isArray(control.type) ? control.type : [control.type];
  const choices = control.labels ?? control.enum;
  let input: HTMLInputElement | HTMLSelectElement;
  if (choices) {
    input = document.createElement("select");
    if (kinds.includes("null")) input.add(new Option("nothing", ""));
    choices.forEach((text, k) => input instanceof HTMLSelectElement && input.add(new Option(text, control.labels ? String(k) : text)));
    input.addEventListener("change", () => {
      const value = input.value;
      changed(value === "" ? null : control.labels ? Number(value) : value);
    });
  } else if (kinds.includes("boolean")) {
    const box = document.createElement("input");
    box.type = "checkbox";
    label.className = "check";
    box.addEventListener("change", () => changed(box.checked));
    input = box;
  } else if (kinds.includes("array")) {
    const text = document.createElement("input");
    text.type = "text";
    text.placeholder = `${control.minItems ?? ""} numbers`;
    text.addEventListener("change", () => {
      const parts = text.value.trim().split(/[\s,]+/).filter(Boolean);
      changed(parts.length ? parts.map(Number) : null);
    });
    input = text;
  } else {
    const number = document.createElement("input");
    const small = (control.maximum ?? Infinity) <= 1000;
    number.type = small ? "range" : "number";
    number.min = String(control.minimum ?? "");
    number.max = String(control.maximum ?? "");
    number.step = kinds.includes("integer") ? "1" : "0.01";
    if (small) title.append(document.createElement("output"));
    number.addEventListener("input", () => {
      mark(number);
      if (number.value !== "") changed(Number(number.value));
    });
    input = number;
  }
  input.name = name;
  input.id = `set-${name}`;
  label.htmlFor = input.id;
  label.append(...(label.className === "check" ? [input, title] : [title, input]));
  if (control.description) {
    const more = document.createElement("small");
    more.textContent = control.description;
    label.append(more);
  }
  return label;
}
