// The caller's latest jobs, kept up to date while the page shows them.

import { call } from "./api.js";
import { el } from "./dom.js";
import { followJob, tone } from "./result.js";

export function jobsPage(main, signal) {
  const rows = el("tbody");
  const panel = el("div");
  const card = el("section", { class: "card", hidden: true }, el("h2", {}, "Job"), panel);
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...["Job", "Status", "Route", "Progress", "Created"].map((name) => el("th", { scope: "col" }, name)))), rows);
  const list = el("section", { class: "card" }, el("h2", {}, "Latest jobs", el("span", { class: "right" }, "renewed every 2 s")), el("div", { class: "scroll" }, table));
  main.replaceChildren(el("div", { class: "head" }, el("h1", {}, "Jobs")), el("p", { class: "about" }, "What you have submitted, newest first."), el("div", { class: "columns" }, list, card));
  let watched = new AbortController();
  signal.addEventListener("abort", () => watched.abort());
  const open = (job) => {
    watched.abort();
    watched = new AbortController();
    card.hidden = false;
    panel.replaceChildren();
    followJob(panel, job, watched.signal).catch(() => {});
  };
  renew(rows, open, signal);
}

async function renew(rows, open, signal) {
  while (!signal.aborted) {
    try {
      const answer = await call("/jobs?limit=25", { signal });
      const body = await answer.json();
      rows.replaceChildren(...(answer.ok ? body.jobs.map((job) => row(job, open)) : [message(body.detail || "cannot be read")]));
      if (answer.ok && !body.jobs.length) rows.append(message("no jobs yet"));
    } catch {
      if (signal.aborted) return;
    }
    await new Promise((done) => setTimeout(done, 2000));
  }
}

function message(text) {
  return el("tr", {}, el("td", { colspan: 5, class: "empty" }, text));
}

function row(job, open) {
  const button = el("button", { class: "plain", type: "button", "aria-label": `show job ${job.job_id}` }, el("code", {}, "…", job.job_id.slice(-8)));
  button.addEventListener("click", () => open(job));
  const progress = job.status === "succeeded" ? 1 : job.progress || 0;
  return el("tr", {}, el("td", {}, button), el("td", {}, el("span", { class: `state ${tone(job.status)}` }, job.status)), el("td", {}, el("code", {}, job.route || "")),
    el("td", {}, el("progress", { max: 1, value: progress, "aria-label": "progress" })), el("td", {}, new Date(job.created_at).toLocaleTimeString()));
}
