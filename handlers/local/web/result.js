// Show what came back: pictures, sound, film, JSON, text, or a file to keep; streams as they come; jobs live.

import { call, events, link } from "./api.js";
import { blobUrl, el, seconds, size } from "./dom.js";

const ENDED = new Set(["succeeded", "failed", "cancelled", "expired"]);
const SHOWN = /^image\/(png|jpeg|gif|webp|avif|bmp)$/;

export async function show(panel, response, began, signal) {
  panel.replaceChildren();
  panel.append(statusLine(response, began));
  const type = (response.headers.get("Content-Type") || "").split(";")[0].trim();
  if (type === "text/event-stream" || type === "application/x-ndjson") return showStream(panel, response, type);
  if (response.status === 202 && type === "application/json") {
    const job = await response.json();
    if (job && job.job_id) return followJob(panel, job, signal);
    panel.append(el("pre", {}, JSON.stringify(job, null, 2)));
    return undefined;
  }
  return showBody(panel, response, type);
}

function statusLine(response, began) {
  const tone = response.ok ? "ok" : "bad";
  const id = response.headers.get("X-Request-ID");
  return el("div", { class: "line" }, el("span", { class: `state ${tone}` }, `${response.status} ${response.statusText}`.trim()),
    el("span", {}, seconds(performance.now() - began)), id ? el("span", {}, "request ", el("code", {}, id)) : null);
}

export async function showBody(panel, response, type) {
  const blob = await response.blob();
  const name = fileName(response.headers.get("Content-Disposition")) || "result";
  if (type === "application/problem+json") return showProblem(panel, JSON.parse(await blob.text()));
  if (!blob.size) return panel.append(el("p", { class: "empty" }, "no content"));
  if (type === "application/json" || type.endsWith("+json")) return showJson(panel, await blob.text());
  if (type.startsWith("text/") && blob.size < 2e6) return panel.append(el("pre", {}, await blob.text()));
  return panel.append(media(new Blob([blob], { type }), type, name));
}

function showProblem(panel, problem) {
  const list = el("ul");
  for (const error of problem.errors || []) list.append(el("li", {}, el("code", {}, (error.loc || []).join(" › ")), ` ${error.msg}`));
  panel.append(el("div", { class: "problem", role: "alert" }, el("strong", {}, problem.title || "Error"), problem.detail || "", list.childElementCount ? list : null));
  panel.append(el("pre", {}, JSON.stringify(problem, null, 2)));
}

function showJson(panel, text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    panel.append(el("pre", {}, text));
    return;
  }
  const found = [];
  collectFiles(value, found);
  for (const file of found) panel.append(media(file.blob, file.type, file.name));
  panel.append(el("pre", {}, typeof value === "string" ? value : JSON.stringify(value, (key, part) => (key === "content" && typeof part === "string" && part.length > 400 ? `${part.slice(0, 60)}… (${size(part.length)})` : part), 2)));
}

function collectFiles(value, found) {
  if (!value || typeof value !== "object" || found.length > 20) return;
  if (typeof value.content === "string" && typeof value.content_type === "string" && value.file_name !== undefined) {
    try {
      const bytes = Uint8Array.from(atob(value.content), (letter) => letter.charCodeAt(0));
      found.push({ blob: new Blob([bytes], { type: value.content_type }), type: value.content_type, name: value.file_name || "result" });
      return;
    } catch { /* not base64: it stays text */ }
  }
  Object.values(value).forEach((part) => collectFiles(part, found));
}

function media(blob, type, name) {
  const url = blobUrl(blob);
  let view = null;
  if (SHOWN.test(type)) view = el("img", { src: url, alt: `the picture that came back: ${name}` });
  else if (type.startsWith("audio/")) view = el("audio", { src: url, controls: true });
  else if (type.startsWith("video/")) view = el("video", { src: url, controls: true });
  return el("figure", { class: "media" }, view, el("figcaption", {}, el("a", { href: url, download: name }, `Download ${name}`), `${type || "bytes"} · ${size(blob.size)}`));
}

function fileName(disposition) {
  const match = /filename\*=UTF-8''([^;]+)|filename="?([^";]+)"?/i.exec(disposition || "");
  if (!match) return "";
  try {
    return match[1] ? decodeURIComponent(match[1]) : match[2];
  } catch {
    return "";
  }
}

// --- streams -------------------------------------------------------------------------------------

async function showStream(panel, response, type) {
  const out = el("pre", { tabindex: "0", "aria-live": "polite", "aria-label": "what has come so far" });
  const note = el("p", { class: "note" }, "streaming …");
  panel.append(note, out);
  let count = 0;
  for await (const item of type === "text/event-stream" ? events(response) : lines(response)) {
    count += 1;
    append(out, item.data);
    note.textContent = `streaming … ${count} values`;
  }
  note.textContent = `${count} values, complete`;
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (value) rest += value;
    const parts = rest.split("\n");
    rest = done ? "" : parts.pop();
    for (const data of parts) if (data) yield { data };
    if (done) return;
  }
}

function append(out, data) {
  let text = data;
  try {
    const value = JSON.parse(data);
    text = typeof value === "string" ? value : `${JSON.stringify(value)}\n`;
  } catch { /* as it is */ }
  const atEnd = out.scrollHeight - out.scrollTop - out.clientHeight < 40;
  out.append(text);
  if (atEnd) out.scrollTop = out.scrollHeight;
}

// --- jobs ----------------------------------------------------------------------------------------

export async function followJob(panel, job, signal) {
  const view = jobView(job);
  panel.append(view.node);
  let current = job;
  const update = (next) => {
    if (!ENDED.has(current.status)) current = { ...current, ...next };
    view.update(current);
  };
  update(job);
  const done = new AbortController();
  const both = AbortSignal.any([signal, done.signal]);
  // outputs come as events; state and progress come by asking for the next version of the record
  live(current, update, view, both).catch(() => {});
  let etag = "";
  while (!ENDED.has(current.status) && !signal.aborted) {
    const asking = etag ? call(link(`${current.links.self}?wait=20`), { signal: both, headers: { "If-None-Match": etag }, cache: "no-store" }) : call(link(current.links.self), { signal: both, cache: "no-store" });
    // four pictures a second are enough, however often the record changes
    const [answer] = await Promise.all([asking, new Promise((go) => setTimeout(go, 250))]);
    if (answer.status === 304) continue;
    if (!answer.ok) {
      done.abort();
      return showBody(panel, answer, "application/problem+json");
    }
    etag = answer.headers.get("ETag") || "";
    update(await answer.json());
  }
  done.abort();
  if (signal.aborted) return;
  if (current.status === "succeeded") {
    const answer = await call(link(current.links.result), { signal });
    await showBody(panel, answer, (answer.headers.get("Content-Type") || "").split(";")[0]);
  } else if (current.error) {
    panel.append(el("div", { class: "problem", role: "alert" }, el("strong", {}, current.error.type || current.status), current.error.message || ""));
  }
}

async function live(job, update, view, signal) {
  const response = await call(link(job.links.events), { headers: { Accept: "text/event-stream" }, signal });
  if (!response.ok || response.status === 204) return;
  for await (const event of events(response)) {
    if (event.type === "job") {
      const next = JSON.parse(event.data);
      update(next);
      if (ENDED.has(next.status)) return;
    } else if (event.type === "progress") update(JSON.parse(event.data));
    else if (event.type === "attempt") view.restart();
    else if (event.type === "output" || event.type === "log") view.output(event.data);
  }
}

const TONES = { succeeded: "ok", failed: "bad", cancelled: "warn", expired: "warn", running: "run", cancelling: "warn", retrying: "warn" };

export function tone(status) {
  return TONES[status] || "";
}

function jobView(job) {
  const state = el("span", { class: "state" });
  const bar = el("progress", { max: 1, value: 0, "aria-label": "progress of the job" });
  const percent = el("span", { class: "percent" });
  const text = el("span");
  const out = el("pre", { hidden: true, class: "wait" });
  const clock = el("span");
  const cancel = el("button", { class: "plain", type: "button" }, "Cancel");
  cancel.addEventListener("click", () => { cancel.disabled = true; call(link(job.links.cancel), { method: "POST" }); });
  const node = el("section", { "aria-label": "job" }, el("div", { class: "line", role: "status" }, state, el("span", {}, "job ", el("code", {}, job.job_id)), clock, cancel), bar, el("p", { class: "note" }, percent, text), out);
  return {
    node,
    update(now) {
      state.className = `state ${tone(now.status)}`;
      state.textContent = now.status;
      const done = now.status === "succeeded" ? 1 : now.progress || 0;
      bar.value = done;
      percent.textContent = `${Math.round(done * 100)} %`;
      text.textContent = now.message || (now.status === "queued" ? "waiting for a worker" : "");
      cancel.hidden = ENDED.has(now.status);
      const spent = (now.metrics || {}).execution_time_s;
      clock.textContent = spent === undefined ? "" : `ran ${seconds(spent * 1000)}`;
    },
    output(data) {
      out.hidden = false;
      append(out, data);
    },
    restart() {
      out.replaceChildren();
    },
  };
}
