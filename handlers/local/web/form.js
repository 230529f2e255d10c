// From a route's description to fields, and from the fields to a request.

import { blobUrl, el, size } from "./dom.js";

export function resolve(schema, document, depth = 0) {
  if (!schema || depth > 20) return {};
  if (schema.$ref) {
    const target = schema.$ref.replace(/^#\//, "").split("/").reduce((node, key) => (node || {})[key], document);
    const { $ref, ...own } = schema;
    return { ...resolve(target, document, depth + 1), ...own };
  }
  const options = schema.anyOf || schema.oneOf;
  if (options) {
    const real = options.map((option) => resolve(option, document, depth + 1)).filter((option) => option.type !== "null");
    if (real.length === 1) return { ...real[0], ...schema, anyOf: undefined, oneOf: undefined, nullable: true };
  }
  if (schema.allOf && schema.allOf.length === 1) return { ...resolve(schema.allOf[0], document, depth + 1), ...schema, allOf: undefined };
  return schema;
}

let counter = 0;

export function makeForm(operation, document) {
  const fields = [];
  const content = (operation.requestBody || {}).content || {};
  const form = content["multipart/form-data"];
  const json = content["application/json"];
  const chosen = hasFile(form, document) || !json ? form || json || content["application/x-www-form-urlencoded"] : json;
  const other = !chosen && Object.keys(content)[0];
  for (const parameter of operation.parameters || []) {
    const entry = resolve(parameter, document);
    fields.push(field(entry.name, resolve(entry.schema, document), entry.required, { where: entry.in, builtin: entry["x-builtin"], text: entry.description }));
  }
  const schema = chosen ? resolve(chosen.schema, document) : null;
  if (schema && schema.properties) {
    const needed = new Set(schema.required || []);
    for (const [name, part] of Object.entries(schema.properties)) {
      fields.push(field(name, resolve(part, document), needed.has(name), { where: "body" }));
    }
  } else if (schema) {
    fields.push(field("body", schema, (operation.requestBody || {}).required, { where: "whole" }));
  } else if (other) {
    fields.push(field("body", { format: "binary" }, true, { where: "raw", media: other }));
  }
  const order = operation["x-parameter-order"] || [];
  const rank = (item) => (order.indexOf(item.name) < 0 ? 999 : order.indexOf(item.name));
  fields.sort((a, b) => rank(a) - rank(b));
  return { fields, multipart: chosen === form && Boolean(form), hasBody: Boolean(chosen || other) };
}

function hasFile(part, document) {
  const properties = part ? resolve(part.schema, document).properties || {} : {};
  return Object.values(properties).some((schema) => isFile(resolve(schema, document)));
}

function isFile(schema) {
  return schema.format === "binary" || (schema.type === "array" && (schema.items || {}).format === "binary");
}

const COOKIE_NOTE = "A page may not set cookies: those that the browser has for this address are sent.";

function field(name, schema, required, { where, builtin = false, text = "", media = "" }) {
  const id = `field-${(counter += 1)}`;
  const [input, read, fill] = control(id, name, schema, required);
  const wrong = el("p", { class: "wrong", id: `${id}-wrong`, hidden: true });
  const cookie = where === "cookie";
  const description = [text || schema.description, cookie && COOKIE_NOTE].filter(Boolean).join(" ");
  const hint = description ? el("p", { class: "hint", id: `${id}-hint` }, description) : null;
  const label = el("label", { for: id }, name, required ? el("span", { class: "req", title: "required" }, "*") : "", el("span", { class: "type" }, typeName(schema)));
  const check = schema.type === "boolean";
  const node = el("div", { class: "field" }, check ? el("div", { class: "check" }, input, label) : label, check ? null : input, hint, wrong);
  const control_ = node.querySelector(`#${id}`);
  if (cookie) control_.disabled = true;
  control_.setAttribute("aria-describedby", `${hint ? `${id}-hint ` : ""}${id}-wrong`);
  return {
    name, schema, required, where, builtin, media, node, fill,
    read() {
      this.complain("");
      if (cookie) return undefined;
      const value = read();
      if (value === undefined && required) throw this.complain("this is needed");
      return value;
    },
    complain(message) {
      wrong.textContent = message;
      wrong.hidden = !message;
      control_.setAttribute("aria-invalid", message ? "true" : "false");
      if (message) control_.focus();
      return new Error(`${name}: ${message}`);
    },
  };
}

function typeName(schema) {
  if (isFile(schema)) return schema.type === "array" ? "files" : "file";
  const parts = [schema.enum ? "choice" : schema.type || "any"];
  if (schema.minimum !== undefined || schema.maximum !== undefined) parts.push(`${schema.minimum ?? "…"}–${schema.maximum ?? "…"}`);
  return parts.join(" ");
}

function control(id, name, schema, required) {
  if (isFile(schema)) return fileControl(id, schema.type === "array");
  if (schema.enum) return choiceControl(id, schema, required);
  if (schema.type === "boolean") return checkControl(id, schema);
  if (schema.type === "number" || schema.type === "integer") return numberControl(id, schema);
  if (schema.type === "string") return textControl(id, name, schema);
  return jsonControl(id, schema);
}

function hintOf(schema) {
  return schema.default === undefined || schema.default === null ? undefined : typeof schema.default === "string" ? schema.default : JSON.stringify(schema.default);
}

function textControl(id, name, schema) {
  const long = (schema.maxLength || 0) > 300 || /prompt|text|message|content|description/i.test(name);
  const input = el(long ? "textarea" : "input", { id, placeholder: hintOf(schema), maxlength: schema.maxLength, spellcheck: long ? "true" : "false", rows: long ? 4 : undefined });
  return [input, () => (input.value === "" ? undefined : input.value), (value) => { input.value = value; }];
}

function numberControl(id, schema) {
  const step = schema.type === "integer" ? 1 : "any";
  const input = el("input", { id, type: "number", step, min: schema.minimum, max: schema.maximum, placeholder: hintOf(schema) });
  const read = () => {
    if (input.value === "" && !input.validity.badInput) return undefined;
    return Number(input.value);
  };
  return [input, read, (value) => { input.value = value; }];
}

function checkControl(id, schema) {
  const input = el("input", { id, type: "checkbox", checked: schema.default === true });
  return [input, () => (input.checked === (schema.default === true) ? undefined : input.checked), (value) => { input.checked = value; }];
}

function choiceControl(id, schema, required) {
  const input = el("select", { id });
  if (!required && schema.default === undefined) input.append(el("option", { value: "" }, "—"));
  schema.enum.forEach((value, index) => input.append(el("option", { value: index, selected: value === schema.default }, String(value))));
  return [input, () => (input.value === "" ? undefined : schema.enum[Number(input.value)]), (value) => { input.value = schema.enum.indexOf(value); }];
}

function jsonControl(id, schema) {
  const example = schema.default ?? (schema.examples || [])[0] ?? (schema.type === "array" ? [] : schema.type === "object" ? {} : undefined);
  const input = el("textarea", { id, placeholder: example === undefined ? "JSON" : JSON.stringify(example), spellcheck: "false" });
  const read = () => {
    if (input.value.trim() === "") return undefined;
    try {
      return JSON.parse(input.value);
    } catch (error) {
      throw new Error(`not valid JSON (${error.message})`);
    }
  };
  return [input, read, (value) => { input.value = JSON.stringify(value, null, 2); }];
}

function fileControl(id, many) {
  const input = el("input", { id, type: "file", multiple: many });
  const text = el("span", {}, "Drop a file here, or choose one");
  const box = el("label", { class: "drop", for: id }, input, text);
  let files = [];
  const show = () => {
    box.querySelectorAll("img").forEach((image) => image.remove());
    if (!files.length) return;
    const first = files[0];
    if (/^image\/(png|jpeg|gif|webp|avif|bmp)$/.test(first.type)) box.prepend(el("img", { src: blobUrl(first), alt: "" }));
    text.replaceChildren(el("b", {}, files.map((file) => file.name).join(", ")), ` · ${size(files.reduce((sum, file) => sum + file.size, 0))}`);
  };
  input.addEventListener("change", () => { files = [...input.files]; show(); });
  for (const name of ["dragover", "dragleave", "drop"]) {
    box.addEventListener(name, (event) => {
      event.preventDefault();
      box.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) {
        files = [...event.dataTransfer.files].slice(0, many ? undefined : 1);
        show();
      }
    });
  }
  return [box, () => (files.length ? (many ? files : files[0]) : undefined), () => {}];
}

// --- request -------------------------------------------------------------------------------------

export function makeRequest(method, path, form) {
  const request = { method: method.toUpperCase(), path, query: new URLSearchParams(), headers: {}, body: undefined };
  const values = {};
  for (const item of form.fields) {
    let value;
    try {
      value = item.read();
    } catch (error) {
      throw error.message.startsWith(`${item.name}:`) ? error : item.complain(error.message);
    }
    if (value === undefined) continue;
    if (item.where === "path") request.path = request.path.replace(new RegExp(`\\{${item.name}(:[a-z]+)?\\}`), encodeURIComponent(value));
    else if (item.where === "query") [value].flat().forEach((part) => request.query.append(item.name, typeof part === "object" ? JSON.stringify(part) : part));
    else if (item.where === "header") request.headers[item.name] = String(value);
    else if (item.where === "whole") request.body = JSON.stringify(value);
    else if (item.where === "raw") { request.body = value; request.headers["Content-Type"] = item.media; }
    else if (item.where === "body") values[item.name] = value;
  }
  if (form.hasBody && request.body === undefined) fillBody(request, values, form.multipart);
  else if (typeof request.body === "string") request.headers["Content-Type"] = "application/json";
  return request;
}

function fillBody(request, values, multipart) {
  if (!multipart) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(values);
    return;
  }
  request.body = new FormData();
  for (const [name, value] of Object.entries(values)) {
    for (const part of Array.isArray(value) && value[0] instanceof File ? value : [value]) {
      request.body.append(name, part instanceof File ? part : typeof part === "object" ? JSON.stringify(part) : String(part));
    }
  }
}

const quote = (text) => `'${String(text).replace(/'/g, `'\\''`)}'`;

export function asCurl(request, url) {
  const lines = [`curl -X ${request.method} ${quote(url)}`];
  for (const [name, value] of Object.entries(request.headers)) lines.push(`-H ${quote(`${name}: ${value}`)}`);
  if (request.body instanceof FormData) {
    for (const [name, value] of request.body) lines.push(`-F ${quote(value instanceof File ? `${name}=@${value.name}` : `${name}=${value}`)}`);
  } else if (request.body instanceof File) lines.push(`--data-binary ${quote(`@${request.body.name}`)}`);
  else if (request.body !== undefined) lines.push(`-d ${quote(request.body)}`);
  return lines.join(" \\\n  ");
}
