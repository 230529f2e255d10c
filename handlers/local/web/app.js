// The page: routes on the left, one of them as a form, and what it answers.

import { apiKey, at, call, setApiKey } from "./api.js";
import { el, freeBlobs } from "./dom.js";
import { asCurl, makeForm, makeRequest } from "./form.js";
import { jobsPage } from "./jobs.js";
import { show } from "./result.js";

const byId = (id) => document.getElementById(id);
const main = byId("main");
const LATE = ["jobs", "system", "runpod", "openai"];
let description = null;
let page = new AbortController();

const KINDS = { job: "job", stream: "stream" };

function operations() {
  const found = [];
  for (const [path, methods] of Object.entries(description.paths || {})) {
    for (const [method, operation] of Object.entries(methods)) {
      if (operation && operation.responses) found.push({ method, path, operation, group: (operation.tags || ["service"])[0] });
    }
  }
  return found;
}

function link(entry) {
  return `#${entry.method}${entry.path}`;
}

function drawRoutes() {
  const groups = new Map();
  for (const entry of operations()) {
    if (!groups.has(entry.group)) groups.set(entry.group, []);
    groups.get(entry.group).push(entry);
  }
  const late = (name) => LATE.indexOf(name);
  const names = [...groups.keys()].sort((a, b) => late(a) - late(b));
  const nodes = names.map((name) => el("details", { class: "group", open: late(name) < 0 }, el("summary", {}, name), ...groups.get(name).map(routeLink)));
  const jobs = el("a", { class: "route", href: "#jobs" }, el("span", { class: "method" }, "LIVE"), el("span", { class: "path" }, "your jobs"));
  byId("routes").replaceChildren(jobs, ...nodes);
}

function routeLink(entry) {
  const { method, path, operation } = entry;
  return el("a", { class: "route", href: link(entry), title: operation.summary || path, "data-words": `${method} ${path} ${operation.summary || ""}`.toLowerCase() },
    el("span", { class: `method ${method}` }, method.toUpperCase()), el("span", { class: "path" }, path));
}

function search() {
  const words = byId("search").value.toLowerCase().trim();
  for (const node of document.querySelectorAll(".route[data-words]")) node.hidden = Boolean(words) && !node.dataset.words.includes(words);
  for (const group of document.querySelectorAll(".group")) {
    const hits = group.querySelectorAll(".route:not([hidden])").length;
    group.hidden = !hits;
    if (words && hits) group.open = true;
  }
}

function navigate() {
  page.abort();
  page = new AbortController();
  freeBlobs();
  byId("side").classList.remove("open");
  byId("menu").setAttribute("aria-expanded", "false");
  const hash = decodeURIComponent(location.hash || "");
  for (const node of document.querySelectorAll(".route")) {
    if (decodeURIComponent(node.getAttribute("href")) === hash) node.setAttribute("aria-current", "page");
    else node.removeAttribute("aria-current");
  }
  if (hash === "#jobs") return jobsPage(main, page.signal);
  const all = operations();
  const entry = all.find((item) => link(item) === hash) || all.find((item) => LATE.indexOf(item.group) < 0) || all[0];
  if (!entry) return main.replaceChildren(el("p", { class: "empty" }, "This service has no routes yet."));
  if (link(entry) !== hash) {
    const node = [...document.querySelectorAll(".route")].find((item) => item.getAttribute("href") === link(entry));
    if (node) node.setAttribute("aria-current", "page");
  }
  return routePage(entry);
}

function routePage({ method, path, operation }) {
  const form = makeForm(operation, description);
  const own = form.fields.filter((item) => !item.builtin);
  const extra = form.fields.filter((item) => item.builtin);
  const panel = el("div", {}, el("p", { class: "empty" }, "The answer appears here."));
  const send = el("button", { class: "primary", type: "submit" }, operation["x-router-kind"] === "job" ? "Run" : "Send");
  const copy = el("button", { class: "plain", type: "button" }, "Copy as curl");
  const problem = el("p", { class: "wrong", role: "alert" });
  const body = el("form", { novalidate: true, autocomplete: "off" }, ...own.map((item) => item.node),
    own.length ? null : el("p", { class: "hint" }, "Nothing has to be filled in."),
    extra.length ? el("details", { class: "more" }, el("summary", {}, "Options"), ...extra.map((item) => item.node)) : null,
    problem, el("div", { class: "actions" }, send, copy));
  const kind = KINDS[operation["x-router-kind"]];
  main.replaceChildren(...[
    el("div", { class: "head" }, el("span", { class: `method ${method}` }, method.toUpperCase()), el("h1", {}, path), kind ? el("span", { class: "tag" }, kind) : null, operation.deprecated ? el("span", { class: "state warn" }, "deprecated") : null),
    operation.summary ? el("p", { class: "lead" }, operation.summary) : null,
    operation.description && operation.description !== operation.summary ? el("p", { class: "about" }, operation.description.replaceAll("``", "")) : null,
    el("div", { class: "columns" }, el("section", { class: "card", "aria-label": "request" }, el("h2", {}, "Request"), body), el("section", { class: "card", "aria-label": "answer" }, el("h2", {}, "Answer"), panel)),
  ].filter(Boolean));
  body.addEventListener("submit", (event) => { event.preventDefault(); run(method, path, form, operation, panel, send, problem); });
  copy.addEventListener("click", () => copyCurl(method, path, form, copy, problem));
}

function build(method, path, form, problem) {
  problem.textContent = "";
  try {
    return makeRequest(method, path, form);
  } catch (error) {
    problem.textContent = error.message;
    return null;
  }
}

function target(request) {
  const url = at(request.path);
  url.search = request.query.toString();
  return url;
}

let running = new AbortController();

async function run(method, path, form, operation, panel, send, problem) {
  const request = build(method, path, form, problem);
  if (!request) return;
  running.abort();
  running = new AbortController();
  const { signal } = running;
  page.signal.addEventListener("abort", () => running.abort(), { once: true });
  send.disabled = true;
  panel.replaceChildren(el("p", { class: "empty", role: "status" }, "sending …"));
  const began = performance.now();
  try {
    const answer = await call(target(request), { method: request.method, headers: request.headers, body: request.body, signal });
    send.disabled = false;
    await show(panel, answer, began, signal);
    if (answer.status === 401) openKey();
  } catch (error) {
    if (!signal.aborted) panel.append(el("div", { class: "problem", role: "alert" }, el("strong", {}, "The service could not be reached"), error.message));
  } finally {
    send.disabled = false;
  }
}

async function copyCurl(method, path, form, button, problem) {
  const request = build(method, path, form, problem);
  if (!request) return;
  if (apiKey()) request.headers.Authorization = "Bearer $ROUTER_API_KEY";
  await navigator.clipboard.writeText(asCurl(request, target(request).href));
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy as curl"; }, 1500);
}

// --- header --------------------------------------------------------------------------------------

async function health() {
  const node = byId("health");
  try {
    const answer = await call("/health/ready");
    node.className = `health ${answer.ok ? "ok" : "bad"}`;
    byId("health-text").textContent = answer.ok ? "ready" : "not ready";
  } catch {
    node.className = "health bad";
    byId("health-text").textContent = "unreachable";
  }
  setTimeout(health, 5000);
}

function openKey() {
  byId("key-value").value = apiKey();
  byId("key-dialog").showModal();
}

function theme(value) {
  document.documentElement.dataset.theme = value;
}

async function load() {
  const answer = await call("openapi.json");
  if (answer.status === 401) {
    main.replaceChildren(el("p", { class: "empty" }, "This service asks for an API key."));
    openKey();
    return;
  }
  description = await answer.json();
  const { title = "Service", version = "" } = description.info || {};
  document.title = title;
  byId("title").textContent = title;
  byId("version").textContent = version && version !== "0" ? `v${version}` : "";
  drawRoutes();
  navigate();
}

theme(localStorage.getItem("router-core-theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  theme(next);
  localStorage.setItem("router-core-theme", next);
});
byId("menu").addEventListener("click", () => byId("menu").setAttribute("aria-expanded", String(byId("side").classList.toggle("open"))));
byId("search").addEventListener("input", search);
byId("key").addEventListener("click", openKey);
byId("key-dialog").addEventListener("close", () => {
  const choice = byId("key-dialog").returnValue;
  if (choice === "save") setApiKey(byId("key-value").value.trim());
  if (choice === "clear") setApiKey("");
  byId("key").classList.toggle("on", Boolean(apiKey()));
  if (choice) load().catch(() => {});
});
byId("key").classList.toggle("on", Boolean(apiKey()));
window.addEventListener("hashchange", navigate);
health();
load().catch((error) => main.replaceChildren(el("p", { class: "empty" }, `The description of the service cannot be read: ${error.message}`)));
